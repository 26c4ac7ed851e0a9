//! What the metrics cost: `cargo bench --bench counting`.

use std::time::Instant;

use evotoken::telemetry::Metrics;
use evotoken::telemetry::metrics::TickStats;

fn main() {
    let metrics = Metrics::new();
    metrics.name_model("lab/echo");
    let (ticks, start) = (1_000_000_u32, Instant::now());
    for tick in 0..ticks {
        // What the engine does per tick: its load when it admits, reaps and releases, then the tick.
        for _ in 0..3 {
            metrics.set_waiting(3);
            metrics.set_load(64, tick as usize, 1 << 32);
        }
        let seconds = f64::from(tick % 1000) * 1e-5;
        metrics.tick(&TickStats { sequences: 64, rows: 1024, refreshes: 1, refinements: 63, seconds });
    }
    println!("{} ns per tick", start.elapsed().as_nanos() / u128::from(ticks));
    let (renders, start) = (100, Instant::now());
    let bytes: usize = (0..renders).map(|_| metrics.render().len()).sum();
    println!("{} us per scrape of {} bytes", start.elapsed().as_micros() / renders, bytes / renders as usize);
}

//! What numbers were measured on.

use evotoken::telemetry::version;

/// Print the date, the program, the processor.
pub fn describe() {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = information.lines().find(|line| line.starts_with(key))?;
        line.split_once(": ").map(|(_, value)| value)
    };
    let flags: Vec<&str> = value("flags").unwrap_or_default().split(' ').collect();
    let units = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"];
    let units: Vec<&str> = units.into_iter().filter(|unit| flags.contains(unit)).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{}, evotoken {}, {cores} cores of {} ({})\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        version::TEXT,
        value("model name").unwrap_or("an unknown processor"),
        units.join(", "),
    );
}

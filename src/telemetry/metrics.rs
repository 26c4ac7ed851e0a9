//! Prometheus metrics: one owned struct of typed handles, no globals. A field's doc comment is its HELP text.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Latencies of a request, in seconds: 1 ms to 2 minutes.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Latencies of one tick, in seconds: 100 us to 10 s.
const TICK_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Small counts: sequences, forward passes, tokens per forward pass.
const COUNTS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0];
/// Packed rows of a tick.
const ROWS: &[f64] = &[4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// What one tick did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TickStats {
    /// Sequences that took a step.
    pub sequences: usize,
    /// Packed rows.
    pub rows: usize,
    /// Steps that recomputed a cache.
    pub refreshes: usize,
    /// Steps that read one.
    pub refinements: usize,
    /// Duration of the forward pass, in seconds.
    pub seconds: f64,
}

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// End-of-text, or a stop string.
    Stop,
    /// The answer is as long as was asked for.
    Length,
    /// Its reader went away.
    Cancelled,
    /// The server's fault, or a deadline.
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Totals of a sequence that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FinishStats {
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Visible answer tokens; end-of-text counts as one.
    pub tokens: usize,
    /// Forward passes.
    pub nfe: usize,
    /// Answer positions denoised, summed over the sequence's blocks.
    pub canvas_positions: usize,
    /// Soft positions whose token changed.
    pub revisions: usize,
    /// From submission to the end, in seconds.
    pub seconds: f64,
}

/// A connection that counts as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Declares [`Metrics`] so that every handle's doc comment is also its HELP text.
macro_rules! metrics {
    ($( #[doc = $help:literal] $field:ident: $kind:ty = $name:literal $make:expr; )+) => {
        /// Every number the server exports.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $( #[doc = $help] $field: $kind, )+
        }

        impl Metrics {
            /// Fresh metrics, all at zero, in a registry of their own.
            pub fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field: $kind = $make($name, $help.trim());
                    register(&registry, &$field);
                )+
                Self { registry, $( $field, )+ }
            }
        }
    };
}

metrics! {
    /// Sequences waiting for a slot.
    waiting: IntGauge = "evotoken_sequences_waiting" gauge;
    /// Sequences running.
    running: IntGauge = "evotoken_sequences_running" gauge;
    /// K/V memory in use, in bytes.
    kv_bytes_used: IntGauge = "evotoken_kv_bytes_used" gauge;
    /// K/V memory there is, in bytes.
    kv_bytes_limit: IntGauge = "evotoken_kv_bytes_limit" gauge;
    /// Finished prefixes kept for other sequences (block-causal models), in bytes.
    prefix_bytes: IntGauge = "evotoken_prefix_cache_bytes" gauge;
    /// Prompts and finished blocks that a step needed, kept or not.
    prefix_queries: IntCounter = "evotoken_prefix_cache_queries_total" counter;
    /// Prompts and finished blocks that were kept and so not computed again.
    prefix_hits: IntCounter = "evotoken_prefix_cache_hits_total" counter;
    /// Tokens of the prompts and finished blocks that were not computed again.
    prefix_tokens: IntCounter = "evotoken_prefix_cache_reused_tokens_total" counter;
    /// Prompts and finished blocks that are no longer kept, for want of room.
    prefix_evictions: IntCounter = "evotoken_prefix_cache_evictions_total" counter;
    /// Engine ticks: forward passes over packed rows.
    ticks: IntCounter = "evotoken_ticks_total" counter;
    /// Sequences that took a step in a tick.
    tick_sequences: Histogram = "evotoken_tick_sequences" |n, h| histogram(n, h, COUNTS);
    /// Packed rows of a tick.
    tick_rows: Histogram = "evotoken_tick_rows" |n, h| histogram(n, h, ROWS);
    /// Duration of a tick's forward pass in seconds, by phase of its steps.
    step_seconds: HistogramVec = "evotoken_step_seconds" |n, h| histograms(n, h, TICK_SECONDS, "phase");
    /// Time from submission to a slot, in seconds.
    queue_seconds: Histogram = "evotoken_queue_seconds" |n, h| histogram(n, h, SECONDS);
    /// Time from submission to the first finished block, in seconds.
    first_block_seconds: Histogram = "evotoken_first_block_seconds" |n, h| histogram(n, h, SECONDS);
    /// Time from submission to the end, in seconds.
    sequence_seconds: Histogram = "evotoken_sequence_seconds" |n, h| histogram(n, h, SECONDS);
    /// Sequences that ended, by outcome.
    finished: IntCounterVec = "evotoken_sequences_finished_total" |n, h| counters(n, h, &["outcome"]);
    /// Prompt tokens of the sequences that ended.
    prompt_tokens: IntCounter = "evotoken_prompt_tokens_total" counter;
    /// Visible answer tokens of the sequences that ended.
    tokens: IntCounter = "evotoken_tokens_total" counter;
    /// Forward passes (NFE) of the sequences that ended.
    nfe_total: IntCounter = "evotoken_nfe_total" counter;
    /// Forward passes (NFE) per sequence, without those that score its prompt.
    nfe: Histogram = "evotoken_nfe" |n, h| histogram(n, h, COUNTS);
    /// Visible answer tokens per forward pass, of sequences that ended.
    tokens_per_forward: Histogram = "evotoken_tokens_per_forward" |n, h| histogram(n, h, COUNTS);
    /// Answer positions denoised.
    canvas_positions: IntCounter = "evotoken_canvas_positions_total" counter;
    /// Soft positions whose token changed.
    revisions: IntCounter = "evotoken_revisions_total" counter;
    /// Connections of clients that are open.
    connections: IntGauge = "evotoken_connections" gauge;
    /// HTTP replies, by route, method and status.
    http_requests: IntCounterVec = "evotoken_http_requests_total" |n, h| counters(n, h, &["route", "method", "status"]);
    /// Sequences running (alias).
    vllm_running: IntGauge = "vllm:num_requests_running" gauge;
    /// Sequences waiting for a slot (alias).
    vllm_waiting: IntGauge = "vllm:num_requests_waiting" gauge;
    /// Part of the K/V memory in use, 0 to 1 (alias).
    vllm_kv_usage: Gauge = "vllm:kv_cache_usage_perc" float_gauge;
    /// Tokens of the prompts and finished blocks that a step needed, kept or not (alias).
    vllm_prefix_queries: IntCounter = "vllm:prefix_cache_queries_total" counter;
    /// Tokens of the prompts and finished blocks that were not computed again (alias).
    vllm_prefix_hits: IntCounter = "vllm:prefix_cache_hits_total" counter;
    /// Time from submission to the first finished block, in seconds (alias).
    vllm_first_token: Histogram = "vllm:time_to_first_token_seconds" |n, h| histogram(n, h, SECONDS);
    /// Time from submission to the end, in seconds (alias).
    vllm_e2e: Histogram = "vllm:e2e_request_latency_seconds" |n, h| histogram(n, h, SECONDS);
    /// Time from submission to a slot, in seconds (alias).
    vllm_queue: Histogram = "vllm:request_queue_time_seconds" |n, h| histogram(n, h, SECONDS);
    /// Prompt tokens (alias).
    vllm_prompt_tokens: IntCounter = "vllm:prompt_tokens_total" counter;
    /// Visible answer tokens (alias).
    vllm_tokens: IntCounter = "vllm:generation_tokens_total" counter;
    /// Denoising steps (alias).
    vllm_steps: IntCounter = "vllm:diffusion_num_denoising_steps_total" counter;
    /// Answer positions denoised (alias).
    vllm_positions: IntCounter = "vllm:diffusion_num_canvas_positions_total" counter;
    /// Visible answer tokens that were committed (alias).
    vllm_committed: IntCounter = "vllm:diffusion_num_committed_tokens_total" counter;
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The engine's load: sequences, and K/V memory in bytes.
    pub fn set_load(&self, waiting: usize, running: usize, kv_bytes_used: usize, kv_bytes_limit: usize) {
        self.waiting.set(signed(waiting));
        self.vllm_waiting.set(signed(waiting));
        self.running.set(signed(running));
        self.vllm_running.set(signed(running));
        self.kv_bytes_used.set(signed(kv_bytes_used));
        self.kv_bytes_limit.set(signed(kv_bytes_limit));
        self.vllm_kv_usage.set(float(kv_bytes_used) / float(kv_bytes_limit.max(1)));
    }

    /// A step needed so many tokens of a prompt or a finished block; `kept`: they were there and not computed again.
    pub fn prefix_queried(&self, tokens: usize, kept: bool) {
        self.prefix_queries.inc();
        self.vllm_prefix_queries.inc_by(tokens as u64);
        if kept {
            self.prefix_hits.inc();
            self.prefix_tokens.inc_by(tokens as u64);
            self.vllm_prefix_hits.inc_by(tokens as u64);
        }
    }

    /// So many prompts and finished blocks are no longer kept.
    pub fn prefixes_evicted(&self, count: usize) {
        self.prefix_evictions.inc_by(count as u64);
    }

    /// What is kept for other sequences, in bytes.
    pub fn prefix_bytes(&self, bytes: usize) {
        self.prefix_bytes.set(signed(bytes));
    }

    /// One tick is over.
    pub fn tick(&self, stats: &TickStats) {
        self.ticks.inc();
        self.tick_sequences.observe(float(stats.sequences));
        self.tick_rows.observe(float(stats.rows));
        let phase = match (stats.refreshes, stats.refinements) {
            (_, 0) => "refresh",
            (0, _) => "refinement",
            _ => "mixed",
        };
        self.step_seconds.with_label_values(&[phase]).observe(stats.seconds);
    }

    /// A sequence has its slot, so many seconds after it was submitted.
    pub fn admitted(&self, queue_seconds: f64) {
        self.queue_seconds.observe(queue_seconds);
        self.vllm_queue.observe(queue_seconds);
    }

    /// A sequence's first block is done, so many seconds after it was submitted.
    pub fn first_block(&self, seconds: f64) {
        self.first_block_seconds.observe(seconds);
        self.vllm_first_token.observe(seconds);
    }

    /// A sequence ended.
    pub fn finished(&self, outcome: Outcome, stats: &FinishStats) {
        self.finished.with_label_values(&[outcome.label()]).inc();
        self.sequence_seconds.observe(stats.seconds);
        self.vllm_e2e.observe(stats.seconds);
        for (counters, amount) in [
            ([&self.prompt_tokens, &self.vllm_prompt_tokens].as_slice(), stats.prompt_tokens),
            (&[&self.tokens, &self.vllm_tokens, &self.vllm_committed], stats.tokens),
            (&[&self.nfe_total, &self.vllm_steps], stats.nfe),
            (&[&self.canvas_positions, &self.vllm_positions], stats.canvas_positions),
            (&[&self.revisions], stats.revisions),
        ] {
            for counter in counters {
                counter.inc_by(amount as u64);
            }
        }
        if stats.nfe > 0 {
            self.nfe.observe(float(stats.nfe));
            self.tokens_per_forward.observe(float(stats.tokens) / float(stats.nfe));
        }
    }

    /// A client connected.
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// An HTTP reply was made. `route` is the pattern, not the path, so that clients cannot grow the label set.
    pub fn http_reply(&self, route: &str, method: &str, status: u16) {
        self.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        for outcome in Outcome::ALL {
            self.finished.with_label_values(&[outcome.label()]);
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    registry.register(Box::new(metric.clone())).expect("metric names are constants, each used once");
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a constant, valid name")
}

fn float_gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("a constant, valid name")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a constant, valid name")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("constant, valid names")
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("a constant name and rising buckets")
}

fn histograms(name: &str, help: &str, buckets: &[f64], label: &str) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    HistogramVec::new(options, &[label]).expect("constant names and rising buckets")
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of one machine, shown as a metric")]
fn float(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_help_and_the_aliases_follow() {
        let metrics = Metrics::new();
        metrics.set_load(3, 2, 512, 1024);
        metrics.tick(&TickStats { sequences: 2, rows: 20, refreshes: 1, refinements: 1, seconds: 0.01 });
        metrics.admitted(0.5);
        metrics.first_block(0.25);
        let stats = FinishStats {
            prompt_tokens: 7,
            tokens: 6,
            nfe: 3,
            canvas_positions: 8,
            revisions: 1,
            seconds: 1.5,
        };
        metrics.finished(Outcome::Stop, &stats);
        metrics.http_reply("/health", "GET", 200);
        let text = metrics.render();
        for line in [
            "# HELP evotoken_sequences_waiting Sequences waiting for a slot.",
            "evotoken_sequences_waiting 3",
            "vllm:num_requests_running 2",
            "vllm:kv_cache_usage_perc 0.5",
            "vllm:generation_tokens_total 6",
            "vllm:diffusion_num_denoising_steps_total 3",
            "vllm:diffusion_num_canvas_positions_total 8",
            "vllm:time_to_first_token_seconds_sum 0.25",
            "vllm:request_queue_time_seconds_sum 0.5",
            "vllm:e2e_request_latency_seconds_sum 1.5",
            "evotoken_step_seconds_count{phase=\"mixed\"} 1",
            "evotoken_sequences_finished_total{outcome=\"stop\"} 1",
            "evotoken_sequences_finished_total{outcome=\"failed\"} 0",
            "evotoken_tokens_per_forward_sum 2",
            "evotoken_http_requests_total{method=\"GET\",route=\"/health\",status=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
    }
}

//! Prometheus metrics: one owned struct of typed handles, no globals. A field's doc comment is its HELP text.

use std::sync::{Arc, OnceLock};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder,
};

pub use super::outcome::Outcome;
use super::series::{
    COUNTS, ROWS, SECONDS, TICK_SECONDS, TOKENS_PER_FORWARD, by_engine, counter, counters, float,
    float_gauge, gauge, gauges, histogram, histograms, label_aliases, register, signed, without_aliases,
};
use super::version;

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

/// Totals of a sequence that ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FinishStats {
    /// The way of decoding: one of the few words that a request may use for it.
    pub method: &'static str,
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
            /// What the model is called, once that is known.
            model: OnceLock<String>,
            /// Of the engines after the first.
            others: OnceLock<Vec<Arc<Metrics>>>,
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
                let (model, others) = (OnceLock::new(), OnceLock::new());
                let metrics = Self { registry, model, others, $( $field, )+ };
                metrics.begin();
                metrics
            }
        }
    };
}

metrics! {
    /// The program that runs: its version and the commit it was built from; always 1.
    build: GaugeVec = "evotoken_build_info" |n, h| gauges(n, h, &["version", "revision"]);
    /// The model that is served, by the name that answers carry; always 1.
    served: GaugeVec = "evotoken_model_info" |n, h| gauges(n, h, &["model"]);
    /// Sequences that may wait for a slot before requests are refused.
    waiting_limit: IntGauge = "evotoken_sequences_waiting_limit" gauge;
    /// Sequences that may run at once.
    running_limit: IntGauge = "evotoken_sequences_running_limit" gauge;
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
    /// Forward passes (NFE) per sequence, without those that score its prompt, by way of decoding.
    nfe: HistogramVec = "evotoken_nfe" |n, h| histograms(n, h, COUNTS, "method");
    /// Visible answer tokens per forward pass, of sequences that ended, by way of decoding.
    tokens_per_forward: HistogramVec = "evotoken_tokens_per_forward" |n, h| histograms(n, h, TOKENS_PER_FORWARD, "method");
    /// Answer positions denoised.
    canvas_positions: IntCounter = "evotoken_canvas_positions_total" counter;
    /// Soft positions whose token changed, by way of decoding.
    revisions: IntCounterVec = "evotoken_revisions_total" |n, h| counters(n, h, &["method"]);
    /// Connections of clients that are open.
    connections: IntGauge = "evotoken_connections" gauge;
    /// HTTP replies, by route, method and status.
    http_requests: IntCounterVec = "evotoken_http_requests_total" |n, h| counters(n, h, &["route", "method", "status"]);
    /// HTTP replies that are errors, by the code in their body (its type where it has none).
    http_errors: IntCounterVec = "evotoken_http_errors_total" |n, h| counters(n, h, &["code"]);
    /// Sequences running (alias).
    vllm_running: IntGauge = "vllm:num_requests_running" gauge;
    /// Sequences waiting for a slot (alias).
    vllm_waiting: IntGauge = "vllm:num_requests_waiting" gauge;
    /// When this was asked, in Unix seconds; the labels say how many adapters are loaded and which have requests (alias).
    vllm_adapters: GaugeVec = "vllm:lora_requests_info" |n, h| gauges(n, h, &["max_lora", "running_lora_adapters", "waiting_lora_adapters"]);
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
    /// Sequences that ended, by reason (alias).
    vllm_finished: IntCounterVec = "vllm:request_success_total" |n, h| counters(n, h, &["finished_reason"]);
    /// Prompt tokens per sequence (alias).
    vllm_prompt_lengths: Histogram = "vllm:request_prompt_tokens" |n, h| histogram(n, h, ROWS);
    /// Visible answer tokens per sequence (alias).
    vllm_lengths: Histogram = "vllm:request_generation_tokens" |n, h| histogram(n, h, ROWS);
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
    /// What is known from the start.
    fn begin(&self) {
        self.build.with_label_values(&[version::NUMBER, version::REVISION]).set(1.0);
        // All outcomes from the start: a rate over a series that begins with its first event misses that event.
        for outcome in Outcome::ALL {
            self.finished.with_label_values(&[outcome.label()]);
            self.vllm_finished.with_label_values(&[outcome.vllm_label()]);
        }
    }

    /// What the model is called. The aliases carry it, and are shown from now on. Only the first name counts.
    pub fn name_model(&self, name: &str) {
        if self.model.set(name.to_owned()).is_ok() {
            self.served.with_label_values(&[name]).set(1.0);
        }
    }

    /// Metrics for each of so many engines: the first one's are these, which show the others' too. Only the first call makes any.
    pub fn of_engines(self: &Arc<Self>, count: usize) -> Vec<Arc<Self>> {
        let others = self.others.get_or_init(|| (1..count).map(|_| Arc::new(Self::new())).collect());
        std::iter::once(self).chain(others).cloned().collect()
    }

    /// How many sequences may wait.
    pub fn set_queue_limit(&self, waiting: usize) {
        self.waiting_limit.set(signed(waiting));
    }

    /// How many sequences may run on an engine.
    pub fn set_slot_limit(&self, running: usize) {
        self.running_limit.set(signed(running));
    }

    /// Sequences that wait.
    pub fn set_waiting(&self, waiting: usize) {
        self.waiting.set(signed(waiting));
        self.vllm_waiting.set(signed(waiting));
    }

    /// The engine's load: sequences, and K/V memory in bytes.
    pub fn set_load(&self, running: usize, kv_bytes_used: usize, kv_bytes_limit: usize) {
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

    /// So many adapters are loaded, and these have requests, waiting ones included. There is one series, of the last call.
    pub fn adapters(&self, loaded: usize, busy: &[String], unix_seconds: u64) {
        self.vllm_adapters.reset();
        if loaded > 0 {
            let labels = [&loaded.to_string(), &busy.join(","), ""];
            #[expect(clippy::cast_precision_loss, reason = "exact for millions of years")]
            self.vllm_adapters.with_label_values(&labels).set(unix_seconds as f64);
        }
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
        self.vllm_finished.with_label_values(&[outcome.vllm_label()]).inc();
        self.sequence_seconds.observe(stats.seconds);
        self.vllm_e2e.observe(stats.seconds);
        for (counters, amount) in [
            ([&self.prompt_tokens, &self.vllm_prompt_tokens].as_slice(), stats.prompt_tokens),
            (&[&self.tokens, &self.vllm_tokens, &self.vllm_committed], stats.tokens),
            (&[&self.nfe_total, &self.vllm_steps], stats.nfe),
            (&[&self.canvas_positions, &self.vllm_positions], stats.canvas_positions),
        ] {
            for counter in counters {
                counter.inc_by(amount as u64);
            }
        }
        self.vllm_prompt_lengths.observe(float(stats.prompt_tokens));
        self.vllm_lengths.observe(float(stats.tokens));
        let method = [stats.method];
        self.revisions.with_label_values(&method).inc_by(stats.revisions as u64);
        if stats.nfe > 0 {
            self.nfe.with_label_values(&method).observe(float(stats.nfe));
            let tokens = float(stats.tokens) / float(stats.nfe);
            self.tokens_per_forward.with_label_values(&method).observe(tokens);
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

    /// An HTTP reply was an error. `code` is one of the server's own words.
    pub fn http_error(&self, code: &'static str) {
        self.http_errors.with_label_values(&[code]).inc();
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let others = self.others.get().map_or(&[][..], Vec::as_slice);
        let all = std::iter::once(self).chain(others.iter().map(Arc::as_ref)).enumerate();
        let gathered = all.map(|(engine, metrics)| {
            let mut families = metrics.registry.gather();
            match self.model.get() {
                Some(model) => label_aliases(&mut families, model, engine),
                // Series without a name would go away once the model has one.
                None => without_aliases(&mut families),
            }
            families
        });
        let families = if others.is_empty() { gathered.flatten().collect() } else { by_engine(gathered) };
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

#[cfg(test)]
mod tests;

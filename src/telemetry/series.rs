//! How the series of [`super::metrics`] are made: names, labels, buckets.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

/// Latencies of a request, in seconds: 1 ms (a small model on a GPU) to the longest time a request gets by default.
pub(super) const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Latencies of one tick, in seconds: 100 us (a small model) to a minute (a long prompt through billions of weights on a
/// CPU). Finer where GPUs are, 5 to 50 ms.
pub(super) const TICK_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Sequences of a tick, forward passes of an answer.
pub(super) const COUNTS: &[f64] =
    &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];
/// Tokens per forward pass; below 1 where an answer ended early in a long block.
pub(super) const TOKENS_PER_FORWARD: &[f64] =
    &[0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0];
/// Packed rows of a tick, tokens of a prompt or an answer.
pub(super) const ROWS: &[f64] =
    &[1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// What the names of other servers' metrics begin with.
const ALIAS: &str = "vllm:";

pub(super) fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    registry.register(Box::new(metric.clone())).expect("metric names are constants, each used once");
}

pub(super) fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a constant, valid name")
}

pub(super) fn float_gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("a constant, valid name")
}

pub(super) fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a constant, valid name")
}

pub(super) fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("constant, valid names")
}

pub(super) fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("a constant name and rising buckets")
}

pub(super) fn gauges(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("constant, valid names")
}

pub(super) fn histograms(name: &str, help: &str, buckets: &[f64], label: &str) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    HistogramVec::new(options, &[label]).expect("constant names and rising buckets")
}

pub(super) fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of one machine, shown as a metric")]
pub(super) fn float(n: usize) -> f64 {
    n as f64
}

/// What is told of the whole server, not of each engine.
const OF_THE_SERVER: &[&str] = &[
    "evotoken_build_info",
    "evotoken_model_info",
    "evotoken_sequences_waiting",
    "evotoken_sequences_waiting_limit",
    "evotoken_connections",
    "evotoken_http_requests_total",
    "evotoken_http_errors_total",
    "vllm:lora_requests_info",
    "vllm:num_requests_waiting",
];

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// The series of several engines as one text shows them: each with its engine's number, but for those of the server, which
/// are the first one's.
pub(super) fn by_engine(engines: impl Iterator<Item = Vec<MetricFamily>>) -> Vec<MetricFamily> {
    let mut all: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for (engine, families) in engines.enumerate() {
        for mut family in families {
            let of_the_server = OF_THE_SERVER.contains(&family.name());
            if of_the_server && engine > 0 {
                continue;
            }
            if !of_the_server && !family.name().starts_with(ALIAS) {
                for metric in family.mut_metric() {
                    let mut labels = vec![pair("engine", &engine.to_string())];
                    labels.extend(metric.take_label());
                    metric.set_label(labels);
                }
            }
            match all.entry(family.name().to_owned()) {
                Entry::Vacant(entry) => drop(entry.insert(family)),
                Entry::Occupied(mut entry) => entry.get_mut().mut_metric().extend(family.take_metric()),
            }
        }
    }
    all.into_values().collect()
}

/// Give the aliases of an engine the labels that vLLM's have.
pub(super) fn label_aliases(families: &mut [MetricFamily], model: &str, engine: usize) {
    for family in families.iter_mut().filter(|family| family.name().starts_with(ALIAS)) {
        for metric in family.mut_metric() {
            let mut labels = vec![pair("engine", &engine.to_string()), pair("model_name", model)];
            labels.extend(metric.take_label());
            metric.set_label(labels);
        }
    }
}

/// Without the aliases.
pub(super) fn without_aliases(families: &mut Vec<MetricFamily>) {
    families.retain(|family| !family.name().starts_with(ALIAS));
}

//! What the server says about itself: logs, spans and numbers.

pub mod metrics;
pub mod otlp;
mod outcome;
mod series;
pub mod trace;
pub mod version;

pub use metrics::{FinishStats, Metrics, Outcome, TickStats};

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use otlp::Exporter;

/// The section `[log]` of the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// For people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,evotoken=debug`.
    pub level: String,
    /// Where an OpenTelemetry collector takes spans over HTTP; `None`: they are sent nowhere.
    pub otlp_endpoint: Option<String>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), otlp_endpoint: None }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Settings of `[log]` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No filter.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// No collector.
    #[error("log.otlp_endpoint: {0}")]
    Endpoint(String),
}

/// Write logs to standard error from now on, and send spans to a collector if the settings name one, until the exporter is
/// dropped.
///
/// # Errors
/// `log.level` is no filter, or nothing can be sent to `log.otlp_endpoint`.
pub fn init(settings: &LogSettings) -> Result<Option<Exporter>, LogError> {
    let filter = EnvFilter::builder().parse(&settings.level)?;
    let exporter = settings.otlp_endpoint.as_deref().map(otlp::exporter).transpose();
    let exporter = exporter.map_err(LogError::Endpoint)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let spans = exporter.as_ref().map(Exporter::layer);
    tracing_subscriber::registry().with(filter).with(lines).with(spans).init();
    Ok(exporter)
}

//! Sums of the time spent in spans, by their names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;
use tracing::span::{Attributes, Id};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Seconds by name.
#[derive(Debug, Clone, Default)]
pub struct Spans(Arc<Mutex<BTreeMap<&'static str, f64>>>);

/// Begin to listen to the network's spans, in the whole process.
pub fn listen() -> Result<Spans> {
    let spans = Spans::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans.clone()))?;
    Ok(spans)
}

impl Spans {
    /// What was summed since the last call.
    pub fn take(&self) -> BTreeMap<&'static str, f64> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics while holding it"))
    }
}

/// When the span was entered.
struct Entered(Instant);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        let is_ours = target.starts_with("evotoken::model") || target.starts_with("evotoken::backend");
        is_ours && metadata.is_span() && *metadata.level() == Level::TRACE
    }

    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Entered(Instant::now()));
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let since = span.extensions().get::<Entered>().map(|Entered(at)| at.elapsed().as_secs_f64());
        let mut sums = self.0.lock().expect("nobody panics while holding it");
        *sums.entry(span.name()).or_default() += since.unwrap_or(0.0);
    }
}

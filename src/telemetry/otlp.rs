//! Spans for an OpenTelemetry collector: the feature `otlp`. Without it there is nobody to tell.

#[cfg(not(feature = "otlp"))]
pub use absent::{Exporter, exporter, join};
#[cfg(feature = "otlp")]
pub use present::{Exporter, exporter, join};

#[cfg(feature = "otlp")]
mod present {
    use opentelemetry::trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    };
    use opentelemetry::{Context, KeyValue};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{Span, Subscriber};
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    use tracing_subscriber::Layer;
    use tracing_subscriber::registry::LookupSpan;

    use super::super::trace::TraceContext;
    use super::super::version;

    /// Sends spans in batches on a thread of its own; what is left goes out when it is dropped.
    #[derive(Debug)]
    pub struct Exporter(SdkTracerProvider);

    impl Exporter {
        /// What gives it the spans of a subscriber.
        pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> {
            let layer = tracing_opentelemetry::layer().with_tracer(self.0.tracer("evotoken"));
            layer.with_location(false).with_threads(false).with_tracked_inactivity(false)
        }
    }

    impl Drop for Exporter {
        fn drop(&mut self) {
            if let Err(error) = self.0.shutdown() {
                tracing::warn!(%error, "the last spans could not be sent");
            }
        }
    }

    /// An exporter to the collector at `endpoint`, such as `http://localhost:4318`.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub fn exporter(endpoint: &str) -> Result<Exporter, String> {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let sender = SpanExporter::builder().with_http().with_protocol(Protocol::HttpJson).with_endpoint(url);
        let sender = sender.build().map_err(|e| e.to_string())?;
        let resource = Resource::builder()
            .with_service_name("evotoken")
            .with_attribute(KeyValue::new("service.version", version::NUMBER));
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(sender).with_resource(resource.build());
        Ok(Exporter(provider.build()))
    }

    /// Make `span` a child of `parent`; where it then stands. `None`: spans are not exported.
    pub fn join(span: &Span, parent: Option<TraceContext>) -> Option<TraceContext> {
        if let Some(parent) = parent {
            let (trace, id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
            let remote =
                SpanContext::new(trace, id, TraceFlags::new(parent.flags), true, TraceState::default());
            span.set_parent(Context::new().with_remote_span_context(remote)).ok()?;
        }
        let context = span.context();
        let own = context.span().span_context().clone();
        own.is_valid().then(|| TraceContext {
            trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(own.span_id().to_bytes()),
            flags: own.trace_flags().to_u8(),
        })
    }
}

#[cfg(not(feature = "otlp"))]
mod absent {
    use tracing::{Span, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::Identity;
    use tracing_subscriber::registry::LookupSpan;

    use super::super::trace::TraceContext;

    /// There is none.
    #[derive(Debug)]
    pub enum Exporter {}

    impl Exporter {
        /// Nothing.
        pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> {
            Identity::new()
        }
    }

    /// None.
    ///
    /// # Errors
    /// Always: the program was built without it.
    pub fn exporter(_endpoint: &str) -> Result<Exporter, String> {
        Err("this program was built without the feature `otlp`".to_owned())
    }

    /// Spans are not exported.
    pub fn join(_span: &Span, _parent: Option<TraceContext>) -> Option<TraceContext> {
        None
    }
}

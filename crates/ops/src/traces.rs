//! Which calls are traced, and their spans. A call that is not traced costs no span and no allocation.

use http::{HeaderMap, HeaderName};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tracing::field::Empty;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::code_name;

/// The target of the span of a traced call. All its parts are below it.
const TRACED: &str = "keyward::traced";

/// Decides which calls are traced: those whose caller traces them (`traceparent`), and a part of the
/// calls of callers that say nothing.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    ratio: Option<f64>,
}

impl Sampling {
    /// Traces `ratio` of the calls, from 0 to 1; without a collector nothing.
    pub fn new(has_collector: bool, ratio: f64) -> Self {
        Self {
            ratio: has_collector.then_some(ratio),
        }
    }

    /// Whether a call with these headers is traced.
    pub fn traces(self, headers: &HeaderMap) -> bool {
        self.ratio.is_some_and(|ratio| match parent(headers) {
            Some(parent) => parent.span().span_context().is_sampled(),
            None => fastrand::f64() < ratio,
        })
    }

    /// Whether something that begins here is traced.
    pub fn traces_root(self) -> bool {
        self.ratio.is_some_and(|ratio| fastrand::f64() < ratio)
    }
}

/// The span of a call to `method`, by the conventions of OpenTelemetry. `traced` are the headers of a traced
/// call. The span of another call is in the log only, if that shows DEBUG.
pub fn rpc_span(method: &'static str, traced: Option<&HeaderMap>) -> Span {
    macro_rules! span {
        ($target:expr) => {
            tracing::debug_span!(
                target: $target,
                "rpc",
                otel.name = method,
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = Empty,
                error.type = Empty,
            )
        };
    }
    let Some(headers) = traced else {
        return span!(module_path!());
    };
    let span = span!(TRACED);
    if let Some(parent) = parent(headers) {
        // An error means that nothing exports the span.
        let _ = span.set_parent(parent);
    }
    span
}

/// Notes in the span of a call how it ended.
pub fn end_rpc(span: &Span, code: Code) {
    let name = code_name(code);
    span.record("rpc.response.status_code", name);
    // The other codes are the caller's errors.
    if matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    ) {
        span.record("error.type", name);
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of something that begins here, such as an update of Telegram: traced, or in the log only.
pub fn root_span(name: &'static str, is_traced: bool) -> Span {
    match is_traced {
        true => {
            tracing::debug_span!(target: TRACED, "root", otel.name = name, otel.kind = "consumer")
        }
        false => Span::none(),
    }
}

/// Adds the header `traceparent`, so that what is called belongs to the trace of the current span, if that
/// is traced.
pub fn propagate(headers: &mut HeaderMap) {
    struct Headers<'h>(&'h mut HeaderMap);

    impl Injector for Headers<'_> {
        fn set(&mut self, key: &str, value: String) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), value.try_into()) {
                self.0.insert(name, value);
            }
        }
    }

    let context = Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
}

/// What is exported: the spans of traced calls, and what happens in them.
pub(super) fn exported<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Filter<S> {
    let is_part = |metadata: &Metadata<'_>| {
        metadata.target().starts_with("keyward") && *metadata.level() <= Level::DEBUG
    };
    dynamic_filter_fn(move |metadata, context| {
        metadata.target() == TRACED || is_part(metadata) && context.lookup_current().is_some()
    })
    // Otherwise every event of every crate would be looked up.
    .with_callsite_filter(move |metadata| match metadata.target() == TRACED {
        true => tracing::subscriber::Interest::always(),
        false if is_part(metadata) => tracing::subscriber::Interest::sometimes(),
        false => tracing::subscriber::Interest::never(),
    })
    .with_max_level_hint(LevelFilter::DEBUG)
}

/// The caller's span, if the headers name one.
fn parent(headers: &HeaderMap) -> Option<Context> {
    struct Headers<'h>(&'h HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(HeaderName::as_str).collect()
        }
    }

    headers.get("traceparent")?;
    let parent =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    parent.has_active_span().then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_decides_and_then_the_ratio() {
        let with = |traceparent: &'static str| {
            let mut headers = HeaderMap::new();
            if !traceparent.is_empty() {
                headers.insert("traceparent", traceparent.parse().unwrap());
            }
            headers
        };
        let (traced, untraced) = (
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        );
        for (traceparent, has_collector, ratio, expected) in [
            ("", true, 1.0, true),
            ("", true, 0.0, false),
            (traced, true, 0.0, true),
            (untraced, true, 1.0, false),
            // A damaged header says nothing.
            ("00-0af7651916cd43dd8448eb211c80319c-01", true, 1.0, true),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                true,
                0.0,
                false,
            ),
            ("", false, 1.0, false),
            (traced, false, 1.0, false),
        ] {
            let sampling = Sampling::new(has_collector, ratio);
            assert_eq!(
                sampling.traces(&with(traceparent)),
                expected,
                "{traceparent} {ratio}"
            );
        }
    }
}

//! What the service shows of itself: the log, spans for a collector, metrics, the side port. A
//! leaf: it imports nothing else of this crate.

pub mod http;
mod metrics;
mod otlp;

use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

pub use metrics::{
    CacheMetrics, FenceMetrics, GarbageMetrics, HeartbeatMetrics, L2Metrics, MemberMetrics,
    Metrics, RevokeMetrics, RpcMetrics, TlsMetrics,
};

/// The name and version under which the service shows itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for each event, for people.
    Text,
    /// One JSON object on a line for each event.
    Json,
}

impl LogFormat {
    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `RUST_LOG` cannot be read.
    #[error("RUST_LOG: {0}")]
    Filter(String),
    /// The exporter cannot be built.
    #[error("otlp_endpoint: {0}")]
    Exporter(String),
    /// There is a subscriber already.
    #[error("the log: {0}")]
    Subscriber(String),
}

/// Keeps telemetry going; when it goes, the spans gathered so far are sent, for at most 3 seconds.
#[must_use = "spans that were not sent yet are lost without it"]
#[derive(Debug)]
pub struct Guard {
    _exporter: Option<otlp::Exporter>,
}

/// Starts the log on stderr, filtered by `filter` (the text of `RUST_LOG`; `info` if there is
/// none), and sends spans of this service, at level DEBUG and above, to `otlp_endpoint` (OTLP over
/// gRPC). A collector that cannot be reached costs neither time nor more than two lines of log for
/// each outage: spans are dropped.
///
/// # Errors
///
/// A filter or an endpoint that cannot be read, a second call in one process.
pub fn init(
    format: LogFormat,
    filter: Option<&str>,
    otlp_endpoint: Option<&str>,
) -> Result<Guard, InitError> {
    let log = fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let exporter = otlp_endpoint.map(otlp::Exporter::start).transpose()?;
    // Only our own spans, or the exporter's own traffic would be traced and exported in turn.
    let ours = Targets::new().with_target("keyward", LevelFilter::DEBUG);
    let spans = exporter.as_ref().map(|exporter| {
        tracing_opentelemetry::layer()
            .with_tracer(exporter.tracer())
            .with_filter(ours)
    });
    tracing_subscriber::registry()
        .with(log.with_filter(env_filter(filter)?))
        .with(spans)
        .try_init()
        .map_err(|error| InitError::Subscriber(error.to_string()))?;
    Ok(Guard {
        _exporter: exporter,
    })
}

/// Unless it is asked for, leaves out what the exporter's library says: it says the same again at
/// each failed attempt. `otlp` tells of an outage once.
fn env_filter(text: Option<&str>) -> Result<EnvFilter, InitError> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("info");
    // The driver of Redis repeats what a server says, which may be what was sent.
    let quiet = if text.contains("opentelemetry") {
        ",redis=off"
    } else {
        ",redis=off,opentelemetry=off"
    };
    EnvFilter::try_new(format!("{text}{quiet}"))
        .map_err(|error| InitError::Filter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        assert!(env_filter(None).is_ok() && env_filter(Some("")).is_ok());
        assert_eq!(
            env_filter(Some("debug")).unwrap().to_string(),
            "opentelemetry=off,redis=off,debug"
        );
        assert!(
            !env_filter(Some("opentelemetry=debug"))
                .unwrap()
                .to_string()
                .contains("opentelemetry=off")
        );
        assert!(env_filter(Some("keyward=loudly")).is_err());
    }
}

//! What an operator meets in every program of Keyward: its settings, log, spans, metrics, side
//! port and outgoing HTTP; and how a program protects its memory.

pub mod findings;
pub mod http;
mod metrics;
mod otlp;
pub mod outgoing;
mod page;
pub mod process;
pub mod samples;
pub mod settings;
pub mod side_port;
mod tasks;
pub mod traces;

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

pub use metrics::{
    AuditMetrics, CacheMetrics, CallerMetrics, Catalogue, Durations, FenceMetrics, GarbageMetrics,
    HeartbeatMetrics, KeyringMetrics, Kind, L2Metrics, LimitMetrics, MemberMetrics, Metrics,
    NearMetrics, One, PortMetrics, RevealMetrics, RevokeMetrics, RpcMetrics, TlsMetrics, Two,
    UseMetrics, WebhookMetrics, WebhooksMetrics, code_name,
};

pub use otlp::{MetricsExport, Signals};
pub use page::Page;
use settings::Telemetry;
pub use tasks::{Ended, Tasks};

/// The target of the log's events that show how a change reaches all instances.
pub const TIMELINE: &str = "keyward::timeline";

/// The version of all programs of this workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for each event, for people.
    #[default]
    Text,
    /// One JSON object for each event, on one line.
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

/// What the log contains of other crates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherCrates {
    /// What the filter lets through.
    Filtered,
    /// At most warnings: finer events of these crates contain secrets.
    WarningsOnly,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// `RUST_LOG` cannot be parsed.
    #[error("RUST_LOG: {0}")]
    Filter(String),
    /// The exporter cannot be built.
    #[error("otlp_endpoint: {0}")]
    Exporter(String),
    /// The process already has a subscriber.
    #[error("the log: {0}")]
    Subscriber(String),
}

/// Keeps telemetry running. Dropping it sends what was collected so far, for at most 3 seconds.
#[must_use = "without it, telemetry that was not sent yet is lost"]
#[derive(Debug)]
pub struct Guard {
    exporter: Option<otlp::Exporter>,
}

impl Guard {
    /// What sends metrics, if they are sent.
    pub fn metrics(&self) -> Option<MetricsExport> {
        self.exporter.as_ref()?.metrics().cloned()
    }
}

/// Starts the log on stderr, filtered by `RUST_LOG` (`info` by default), and sends telemetry of the program
/// `service` to the collector. An unreachable collector costs no time, and two log lines for each outage and
/// signal; what cannot be sent is dropped.
///
/// # Errors
///
/// An invalid filter or endpoint; a second call in one process.
pub fn init(
    settings: &Telemetry,
    service: &'static str,
    others: OtherCrates,
) -> Result<Guard, InitError> {
    let filter = std::env::var("RUST_LOG").ok();
    let filter = filter.as_deref();
    let log = fmt::layer().with_writer(std::io::stderr);
    let log = match settings.log_format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let exporter = settings.otlp_endpoint.as_ref().map(|url| {
        let signals = settings.otlp_signals;
        otlp::Exporter::start(url.expose(), signals, service)
    });
    let exporter = exporter.transpose()?;
    let tracer = exporter.as_ref().and_then(otlp::Exporter::tracer);
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_filter(traces::exported())
    });
    let logger = exporter.as_ref().and_then(otlp::Exporter::logs);
    // What the exporter's own crates log would be sent by them, and so log again.
    let is_own = filter_fn(|event| event.target().starts_with("keyward"));
    let is_own = is_own.with_max_level_hint(LevelFilter::TRACE);
    let sent_log = logger
        .map(|logger| {
            let filter = log_filter(filter, others)?.and(is_own);
            Ok(OpenTelemetryTracingBridge::new(logger).with_filter(filter))
        })
        .transpose()?;
    tracing_subscriber::registry()
        .with(log.with_filter(log_filter(filter, others)?))
        .with(spans)
        .with(sent_log)
        .try_init()
        .map_err(|error| InitError::Subscriber(error.to_string()))?;
    Ok(Guard { exporter })
}

/// What the log contains. The filter names its finest level: otherwise tracing would create every span of
/// every crate, several in each call, and drop it again.
fn log_filter<S: Subscriber>(
    text: Option<&str>,
    others: OtherCrates,
) -> Result<impl Filter<S> + use<S>, InitError> {
    let is_logged = filter_fn(move |event| {
        others == OtherCrates::Filtered
            || event.target().starts_with("keyward")
            || *event.level() <= Level::WARN
    });
    Ok(env_filter(text)?.and(is_logged.with_max_level_hint(LevelFilter::TRACE)))
}

/// The filter in `text`. It silences the exporter's library, which logs every failed attempt, unless
/// `text` names it; `otlp` logs each outage once.
fn env_filter(text: Option<&str>) -> Result<EnvFilter, InitError> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("info");
    // The Redis driver logs server replies, which can repeat what was sent.
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
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn finer_spans_than_the_log_contains_are_not_created() {
        for (text, finest) in [(None, LevelFilter::INFO), (Some("warn"), LevelFilter::WARN)] {
            for others in [OtherCrates::Filtered, OtherCrates::WarningsOnly] {
                let filter = log_filter::<Registry>(text, others).unwrap();
                assert_eq!(filter.max_level_hint(), Some(finest));
            }
        }
    }

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

//! Sends telemetry to an OpenTelemetry collector (OTLP over gRPC). The program works the same without its
//! collector: everything here runs on a thread of its own, and what cannot be sent is dropped.

mod collector;
mod metrics;

use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, SdkLoggerProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::{InitError, VERSION};
use collector::{Collector, Sender};
pub use metrics::MetricsExport;

/// The longest time for all that is sent at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// What is sent to the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The spans of traced calls.
    pub traces: bool,
    /// All metrics, every 30 seconds.
    pub metrics: bool,
    /// The program's own part of the log.
    pub logs: bool,
}

impl Signals {
    /// The names in settings.
    pub const NAMES: [&'static str; 3] = ["traces", "metrics", "logs"];

    /// Reads names separated by commas.
    ///
    /// # Errors
    ///
    /// The name that is unknown.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut signals = Self::default();
        for name in text.split(',').map(str::trim) {
            match name {
                "traces" => signals.traces = true,
                "metrics" => signals.metrics = true,
                "logs" => signals.logs = true,
                _ => {
                    let known = Self::NAMES.join(", ");
                    return Err(format!("`{name}` is none of {known}"));
                }
            }
        }
        Ok(signals)
    }
}

impl std::fmt::Display for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_sent = [self.traces, self.metrics, self.logs];
        let sent = Self::NAMES.iter().zip(is_sent);
        let sent: Vec<_> = sent.filter_map(|(name, is)| is.then_some(*name)).collect();
        f.write_str(&sent.join(","))
    }
}

/// Collects spans, log records and metrics, and sends them in batches. A full queue drops what is new.
#[derive(Debug)]
pub(super) struct Exporter {
    spans: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<MetricsExport>,
    /// `None` only after `drop`.
    runtime: Option<Runtime>,
}

impl Exporter {
    /// Does not connect: the collector can start later, and can stop.
    pub(super) fn start(
        endpoint: &str,
        signals: Signals,
        service: &'static str,
    ) -> Result<Self, InitError> {
        // The gRPC channel needs a tokio runtime, and the SDK's batching threads have none. The runtimes
        // of the service can have a single thread, which must not wait for a collector.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("keyward-otlp")
            .enable_all()
            .build()
            .map_err(|error| InitError::Exporter(error.to_string()))?;
        let collector = Collector::new(endpoint, &runtime)?;
        let instance = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes());
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", VERSION))
            // Otherwise the metrics of two instances would be one series.
            .with_attribute(KeyValue::new(
                "service.instance.id",
                instance.into_uuid().to_string(),
            ))
            .build();
        let Signals {
            traces,
            metrics,
            logs,
        } = signals;
        let spans = traces.then(|| {
            let exporter = Batches::new(collector.sender("spans"));
            let builder = SdkTracerProvider::builder().with_batch_exporter(exporter);
            builder.with_resource(resource.clone()).build()
        });
        let logs = logs.then(|| {
            let exporter = Batches::new(collector.sender("log records"));
            let builder = SdkLoggerProvider::builder().with_batch_exporter(exporter);
            builder.with_resource(resource.clone()).build()
        });
        let metrics = metrics.then(|| {
            MetricsExport::start(collector.sender("metrics"), &resource, runtime.handle())
        });
        Ok(Self {
            spans,
            logs,
            metrics,
            runtime: Some(runtime),
        })
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        Some(self.spans.as_ref()?.tracer("keyward"))
    }

    pub(super) fn logs(&self) -> Option<&SdkLoggerProvider> {
        self.logs.as_ref()
    }

    pub(super) fn metrics(&self) -> Option<&MetricsExport> {
        self.metrics.as_ref()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let end = Instant::now() + SHUTDOWN_TIMEOUT;
        let left = || end.saturating_duration_since(Instant::now());
        if let Some(metrics) = &self.metrics {
            metrics.send_last(left());
        }
        let ended = [
            self.spans
                .as_ref()
                .map(|spans| spans.shutdown_with_timeout(left())),
            self.logs
                .as_ref()
                .map(|logs| logs.shutdown_with_timeout(left())),
        ];
        for error in ended.into_iter().flatten().filter_map(Result::err) {
            tracing::debug!(%error, "the last telemetry was not sent");
        }
        // It does not wait, so it can run inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for `work` on another thread, for at most `limit`.
fn wait(
    limit: Duration,
    runtime: &tokio::runtime::Handle,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let (done, finished) = mpsc::channel();
    runtime.spawn(async move {
        work.await;
        // Nobody may wait any longer.
        let _ = done.send(());
    });
    if finished.recv_timeout(limit).is_err() {
        tracing::debug!("the last metrics were not sent");
    }
}

/// Sends batches of spans, or of log records.
#[derive(Debug)]
struct Batches {
    sender: Sender,
    resource: ResourceAttributesWithSchema,
}

impl Batches {
    fn new(sender: Sender) -> Self {
        let resource = ResourceAttributesWithSchema::default();
        Self { sender, resource }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Batches {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let mut client = TraceServiceClient::new(self.sender.transport());
        let call = async move { client.export(request).await.map(drop) };
        self.sender.send(call).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

impl opentelemetry_sdk::logs::LogExporter for Batches {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let request = ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(&batch, &self.resource),
        };
        let mut client = LogsServiceClient::new(self.sender.transport());
        let call = async move { client.export(request).await.map(drop) };
        self.sender.send(call).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use opentelemetry::trace::Tracer as _;

    use super::*;

    const ALL: Signals = Signals {
        traces: true,
        metrics: true,
        logs: true,
    };

    fn exporter(endpoint: &str) -> Exporter {
        Exporter::start(endpoint, ALL, "keyward").unwrap()
    }

    #[test]
    fn a_silent_collector_gets_spans_and_delays_nothing() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let exporter = exporter(&endpoint);
            exporter
                .metrics()
                .unwrap()
                .of(|| "canary 1\n# EOF\n".to_owned());
            let tracer = exporter.tracer().unwrap();
            for _ in 0..10_000 {
                drop(tracer.start("canary span"));
            }
            drop(exporter);
            done.send(()).unwrap();
        });
        let (mut stream, _) = silent.accept().unwrap();
        let mut sent = Vec::new();
        let mut buffer = [0; 4096];
        while !(holds(&sent, "service.name") && holds(&sent, "canary span")) {
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "no span was sent");
            sent.extend_from_slice(&buffer[..read]);
        }
        assert!(finished.recv_timeout(Duration::from_secs(8)).is_ok());
    }

    fn holds(bytes: &[u8], text: &str) -> bool {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    #[tokio::test]
    async fn exporter_starts_and_ends_inside_a_runtime() {
        for endpoint in ["http://127.0.0.1:9", "https://127.0.0.1:9"] {
            let exporter = exporter(endpoint);
            drop(exporter.tracer().unwrap().start("span"));
            drop(exporter);
        }
    }

    #[test]
    fn signals_are_read_and_shown() {
        assert_eq!(Signals::parse("logs, traces,metrics"), Ok(ALL));
        assert_eq!(ALL.to_string(), "traces,metrics,logs");
        assert_eq!(
            Signals::parse("traces,spans"),
            Err("`spans` is none of traces, metrics, logs".to_owned())
        );
        assert!(Signals::parse("").is_err());
    }
}

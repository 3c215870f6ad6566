//! The exporter of spans. The service works the same without its collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{InitError, VERSION};

/// The longest time for one batch, also for the last one at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Collects spans and sends them in batches, on separate threads. A full queue drops spans.
#[derive(Debug)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    /// `None` only after `drop`.
    runtime: Option<Runtime>,
}

impl Exporter {
    /// Does not connect: the collector can start later, and can stop.
    pub(super) fn start(endpoint: &str) -> Result<Self, InitError> {
        let failed = |error: &dyn std::fmt::Display| InitError::Exporter(error.to_string());
        // The gRPC channel needs a tokio runtime, and the SDK's batching thread has none. The runtimes
        // of the service can have a single thread, which must not wait for a collector.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("keyward-otlp")
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let mut builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .with_retry_policy(RetryPolicy::disabled());
        if endpoint.starts_with("https:") {
            builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        let exporter = {
            let _context = runtime.enter();
            // The library's error can repeat the endpoint with its password.
            builder
                .build()
                .map_err(|_| failed(&"no exporter can be built for this URL"))?
        };
        let exporter = Calm {
            inner: Arc::new(exporter),
            runtime: runtime.handle().clone(),
            failing: AtomicBool::new(false),
        };
        let resource = Resource::builder()
            .with_service_name("keyward")
            .with_attribute(opentelemetry::KeyValue::new("service.version", VERSION))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Self {
            provider,
            runtime: Some(runtime),
        })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("keyward")
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::debug!(%error, "the last spans were not sent");
        }
        // It does not wait, so it can run inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Exports on its own runtime within a bound. Logs each outage once instead of once per batch.
#[derive(Debug)]
struct Calm {
    inner: Arc<SpanExporter>,
    runtime: Handle,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Calm {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let export = self
            .runtime
            .spawn(async move { tokio::time::timeout(EXPORT_TIMEOUT, inner.export(batch)).await });
        let result = match export.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "cannot send spans to otlp_endpoint; they are dropped until it answers");
            }
            Ok(()) if was_failing => tracing::info!("sending spans to otlp_endpoint again"),
            _ => {}
        }
        result
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.inner.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        // The SDK calls it while it builds the pipeline, before an export shares the exporter.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::mpsc;

    use opentelemetry::trace::Tracer as _;

    use super::*;

    #[test]
    fn a_silent_collector_gets_spans_and_delays_nothing() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let exporter = Exporter::start(&endpoint).unwrap();
            for _ in 0..10_000 {
                drop(exporter.tracer().start("canary span"));
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
            let exporter = Exporter::start(endpoint).unwrap();
            drop(exporter.tracer().start("span"));
            drop(exporter);
        }
    }
}

//! The connection to the collector. Each request has a bound, and each outage is logged once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use percent_encoding::percent_decode_str;
use tokio::runtime::{Handle, Runtime};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::InitError;

/// The longest time for one request, also for the last one at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The variable with the headers for the collector, as every OpenTelemetry SDK reads it.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// The collector.
#[derive(Debug)]
pub(super) struct Collector {
    channel: Channel,
    headers: Headers,
    runtime: Handle,
}

impl Collector {
    /// Does not connect. The connection lives on `runtime`.
    pub(super) fn new(endpoint: &str, runtime: &Runtime) -> Result<Self, InitError> {
        // The library's error can repeat the endpoint with its password.
        let refused = || InitError::Exporter("no exporter can be built for this URL".to_owned());
        let mut channel = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| refused())?;
        if endpoint.starts_with("https:") {
            let tls = ClientTlsConfig::new().with_enabled_roots();
            channel = channel.tls_config(tls).map_err(|_| refused())?;
        }
        let headers = Headers::parse(&std::env::var(HEADERS).unwrap_or_default())?;
        let _context = runtime.enter();
        Ok(Self {
            channel: channel.connect_timeout(EXPORT_TIMEOUT).connect_lazy(),
            headers,
            runtime: runtime.handle().clone(),
        })
    }

    /// Sends one kind of telemetry, which the log calls `kind`.
    pub(super) fn sender(&self, kind: &'static str) -> Sender {
        Sender {
            transport: InterceptedService::new(self.channel.clone(), self.headers.clone()),
            runtime: self.runtime.clone(),
            kind,
            is_failing: Arc::default(),
        }
    }
}

pub(super) type Transport = InterceptedService<Channel, Headers>;

/// Sends one kind of telemetry.
#[derive(Clone)]
pub(super) struct Sender {
    transport: Transport,
    runtime: Handle,
    kind: &'static str,
    is_failing: Arc<AtomicBool>,
}

impl Sender {
    pub(super) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// Makes `call` on the runtime of the collector, within a bound.
    pub(super) async fn send(
        &self,
        call: impl Future<Output = Result<(), Status>> + Send + 'static,
    ) -> OTelSdkResult {
        let call = self
            .runtime
            .spawn(async move { tokio::time::timeout(EXPORT_TIMEOUT, call).await });
        let result = match call.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(status))) => {
                let text = format!("{:?}: {}", status.code(), status.message());
                Err(OTelSdkError::InternalFailure(text))
            }
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        let kind = self.kind;
        match &result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "cannot send {kind} to otlp_endpoint; they are dropped until it answers");
            }
            Ok(()) if was_failing => tracing::info!("sending {kind} to otlp_endpoint again"),
            _ => {}
        }
        result
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.kind)
    }
}

/// The headers of each request. They can hold a secret.
#[derive(Clone, Default)]
pub(super) struct Headers(Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>);

impl Headers {
    /// Reads `name=value` pairs, separated by commas; values are percent-encoded.
    fn parse(text: &str) -> Result<Self, InitError> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let mut value = MetadataValue::try_from(&*value).ok()?;
            value.set_sensitive(true);
            Some((name.trim().to_lowercase().parse().ok()?, value))
        });
        let parsed = pairs.collect::<Option<_>>().map(Self);
        parsed.ok_or_else(|| {
            InitError::Exporter(format!(
                "{HEADERS} is not a list of name=value, separated by commas"
            ))
        })
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata: &mut MetadataMap = request.metadata_mut();
        for (name, value) in &self.0 {
            metadata.insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} headers", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_other_sdks_read_them() {
        let read = Headers::parse(" Api-Key=a%20b , x=1,").unwrap();
        let read: Vec<_> = read
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(read, [("api-key", "a b"), ("x", "1")]);
        for wrong in ["hunter2", "a b=hunter2", "x=%0ahunter2", "=hunter2"] {
            let error = Headers::parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains(HEADERS) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}

//! The metrics of calls: by the names of this project, and by those of OpenTelemetry's conventions. Both
//! show the same histograms.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use tonic::Code;

use super::catalogue::{Catalogue, Two, histogram};

const HELP: &str = "Time from a call to its answer";
/// A name of OpenTelemetry's conventions, as Prometheus writes it and as it is.
const CONVENTIONAL: [(&str, &str); 4] = [
    (
        "rpc_server_call_duration_seconds",
        "rpc.server.call.duration",
    ),
    ("rpc_system_name", "rpc.system.name"),
    ("rpc_method", "rpc.method"),
    ("rpc_response_status_code", "rpc.response.status_code"),
];

/// The name of OpenTelemetry's conventions that Prometheus writes as `name`.
pub(crate) fn conventional_name(name: &str) -> Option<&'static str> {
    let mut known = CONVENTIONAL.iter();
    known
        .find(|(written, _)| *written == name)
        .map(|(_, is)| *is)
}

/// The metrics of one RPC.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    name: &'static str,
    method: &'static str,
    ok: (Counter, Histogram),
    total: Family<Two, Counter>,
    durations: RpcDurations,
}

impl RpcMetrics {
    pub(super) fn new(
        name: &'static str,
        method: &'static str,
        total: Family<Two, Counter>,
        durations: RpcDurations,
    ) -> Self {
        let counter = total.get_or_create_owned(&[("method", name), ("code", "OK")]);
        Self {
            name,
            method,
            ok: (counter, durations.of(name, method, "OK")),
            total,
            durations,
        }
    }

    /// The full name, such as `keyward.v1.ApiKeyService/Verify`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Counts a call that ended with `code` after `elapsed`.
    pub fn observe(&self, code: Code, elapsed: Duration) {
        let (counter, histogram) = match code {
            Code::Ok => &self.ok,
            _ => {
                let code = code_name(code);
                let labels = [("method", self.name), ("code", code)];
                let counter = self.total.get_or_create_owned(&labels);
                &(counter, self.durations.of(self.name, self.method, code))
            }
        };
        counter.inc();
        histogram.observe(elapsed.as_secs_f64());
    }
}

type Calls = BTreeMap<(&'static str, &'static str), (&'static str, Histogram)>;

/// The durations of all calls, by short name and code, with the full name.
#[derive(Clone, Default)]
pub(super) struct RpcDurations(Arc<RwLock<Calls>>);

impl RpcDurations {
    pub(super) fn register(catalogue: &mut Catalogue) -> Self {
        let durations = Self::default();
        let [(conventional, _), ..] = CONVENTIONAL;
        let named = [
            ("keyward_rpc_duration_seconds", "method, code", HELP),
            (
                conventional,
                "rpc_system_name, rpc_method, rpc_response_status_code",
                "The same by the conventions of OpenTelemetry",
            ),
        ];
        catalogue.collector(durations.clone(), &named);
        durations
    }

    fn of(&self, name: &'static str, method: &'static str, code: &'static str) -> Histogram {
        let found = self
            .0
            .read()
            .get(&(name, code))
            .map(|(_, known)| known.clone());
        found.unwrap_or_else(|| {
            let mut calls = self.0.write();
            let (_, histogram) = calls
                .entry((name, code))
                .or_insert_with(|| (method, histogram()));
            histogram.clone()
        })
    }
}

impl Collector for RpcDurations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let calls = self.0.read();
        let seconds = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut metric = encoder.encode_descriptor("keyward_rpc_duration", HELP, seconds, kind)?;
        for ((name, code), (_, histogram)) in &*calls {
            histogram.encode(metric.encode_family(&[("method", *name), ("code", *code)])?)?;
        }
        let mut metric =
            encoder.encode_descriptor("rpc_server_call_duration", HELP, seconds, kind)?;
        for ((_, code), (method, histogram)) in &*calls {
            let labels = [
                ("rpc_system_name", "grpc"),
                ("rpc_method", *method),
                ("rpc_response_status_code", *code),
            ];
            histogram.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for RpcDurations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcDurations({})", self.0.read().len())
    }
}

/// The name of a status code as gRPC's documentation writes it.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

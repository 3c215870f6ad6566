//! Settings that several programs take: those of the log and of telemetry, and those of Keyward's clients.

use std::path::PathBuf;

use super::values::{Url, log_format, number, optional, path, shown};
use super::{Schema, Setting, Takes};
use crate::traces::Sampling;
use crate::{LogFormat, Signals};

/// The log, and what a collector receives.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// The format of the log.
    pub log_format: LogFormat,
    /// The OpenTelemetry collector.
    pub otlp_endpoint: Option<Url>,
    /// What the collector receives.
    pub otlp_signals: Signals,
    /// The part of the calls that are traced, from 0 to 1.
    pub trace_ratio: f64,
}

impl Telemetry {
    /// Decides which calls are traced.
    pub fn sampling(&self) -> Sampling {
        let is_tracing = self.otlp_endpoint.is_some() && self.otlp_signals.traces;
        Sampling::new(is_tracing, self.trace_ratio)
    }
}

/// Settings with those of telemetry.
pub trait HasTelemetry: Schema {
    /// Those of telemetry.
    fn telemetry(&self) -> &Telemetry;

    /// Those of telemetry.
    fn telemetry_mut(&mut self) -> &mut Telemetry;
}

/// How a setting is read from text.
type Set<S> = fn(&mut S, &str) -> Result<(), String>;

impl<S: HasTelemetry> Setting<S> {
    /// The format of the log.
    pub const fn log_format() -> Self {
        Self::new(
            "log_format",
            Takes::Value("FORMAT"),
            "text",
            "Format of the log on stderr: `text` or `json`; RUST_LOG filters the log",
            |s, text| log_format(text).map(|format| s.telemetry_mut().log_format = format),
        )
    }

    /// The collector.
    pub const fn otlp_endpoint() -> Self {
        Self::new(
            "otlp_endpoint",
            Takes::Value("URL"),
            "none",
            "OpenTelemetry collector (OTLP over gRPC) that receives `otlp_signals`, such as \
             http://127.0.0.1:4317; `none` switches it off",
            |s, text| optional(text, Url::new).map(|url| s.telemetry_mut().otlp_endpoint = url),
        )
        .shown(|s| shown(s.telemetry().otlp_endpoint.as_ref()))
        .confidential()
    }

    /// What the collector receives.
    pub const fn otlp_signals() -> Self {
        Self::new(
            "otlp_signals",
            Takes::Value("SIGNALS"),
            "traces",
            "What `otlp_endpoint` receives, separated by commas: `traces`, `metrics` (every 30 seconds), `logs` \
             (what this program logs on stderr)",
            |s, text| Signals::parse(text).map(|signals| s.telemetry_mut().otlp_signals = signals),
        )
        .shown(|s| s.telemetry().otlp_signals.to_string())
    }

    /// The part of the calls that are traced.
    pub const fn trace_ratio(help: &'static str) -> Self {
        Self::new(
            "trace_ratio",
            Takes::Value("RATIO"),
            "0.01",
            help,
            |s, text| number(text, 0.0..=1.0).map(|ratio| s.telemetry_mut().trace_ratio = ratio),
        )
    }
}

impl<S: Schema> Setting<S> {
    /// The authorities that a client of Keyward trusts.
    pub const fn ca_file(set: Set<S>) -> Self {
        Self::new(
            "ca_file",
            Takes::Value("FILE"),
            "none",
            "Certificates (PEM) of the authorities to trust for Keyward, instead of the system's",
            set,
        )
        .of_clients()
    }

    /// A client's own certificate.
    pub const fn client_certificate(set: Set<S>) -> Self {
        Self::new(
            "client_certificate",
            Takes::Value("FILE"),
            "none",
            "Own client certificate (PEM), instead of a token; read again when it changes",
            set,
        )
        .of_clients()
    }

    /// The key of a client's own certificate.
    pub const fn client_key(set: Set<S>) -> Self {
        Self::new(
            "client_key",
            Takes::Value("FILE"),
            "none",
            "Private key (PEM) of `client_certificate`",
            set,
        )
        .of_clients()
    }

    /// Whether a client may send secrets in the clear.
    pub const fn insecure_client(set: Set<S>) -> Self {
        Self::new(
            "insecure",
            Takes::Switch,
            "false",
            "Allow http:// to other hosts: keys and tokens cross the network in the clear",
            set,
        )
    }
}

/// Reads the setting `client_key`, which needs `client_certificate` and is needed by it.
///
/// # Errors
///
/// One of them is missing.
pub fn key_of(certificate: Option<&PathBuf>, text: &str) -> Result<Option<PathBuf>, String> {
    let key = optional(text, path)?;
    match key.is_some() == certificate.is_some() {
        true => Ok(key),
        false => Err("and client_certificate need each other".to_owned()),
    }
}

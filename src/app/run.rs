//! Runs the process from its start to its end by a signal.

use std::io::Write;
use std::net::SocketAddr;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{App, Parts, StartError};
use crate::config::Settings;
use crate::system;
use keyward_ops::{LogFormat, OtherCrates};

/// The signal of a write over the file-size limit. It is caught, so that the write fails as on a full
/// disk and the process continues.
const SIGXFSZ: i32 = 25;

/// The number of control threads: the tail must run while a write uses the other thread.
const CONTROL_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub fn serve(settings: Settings) -> Result<(), StartError> {
    system::forbid_core_dumps().map_err(StartError::new)?;
    system::allow_open_files();
    let telemetry = keyward_ops::init(&settings.telemetry, "keyward", OtherCrates::Filtered);
    let telemetry = telemetry.map_err(StartError::new)?;
    let parts = Parts {
        telemetry: telemetry.metrics(),
        ..Parts::system()
    };
    let mut runtime = match settings.workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(StartError::new)?
        .block_on(run(&settings, parts))
}

/// Serves on the current runtime until SIGTERM or SIGINT, or until a long-lived task ends by itself.
///
/// # Errors
///
/// Why the service did not start, or which task ended and how.
pub async fn run(settings: &Settings, parts: Parts) -> Result<(), StartError> {
    let mut signals = Signals::catch()?;
    let _over_limit = catch(SignalKind::from_raw(SIGXFSZ))?;
    let app = App::start(settings, parts).await?;
    report_ready(&app, settings.telemetry.log_format);
    tokio::select! {
        () = signals.stop() => {}
        ended = app.task_ended() => {
            tracing::error!("stopping: {ended}");
            app.stop().await;
            return Err(StartError::new(ended));
        }
    }
    tracing::info!(
        drain_delay = %humantime::format_duration(settings.drain_delay),
        "stopping: health is NOT_SERVING; calls in progress can finish"
    );
    tokio::select! {
        () = app.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        interrupted = signals.interrupt() => Err(interrupted),
    }
}

fn catch(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(StartError::new)
}

/// The signals that stop a process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, StartError> {
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Returns at SIGTERM or SIGINT.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Returns at a second Ctrl-C, which stops immediately. A second SIGTERM does not: some supervisors send
    /// two.
    pub(super) async fn interrupt(&mut self) -> StartError {
        self.interrupt.recv().await;
        StartError("stopped immediately by a second interrupt".to_owned())
    }
}

/// Writes the line that the parent process can wait for.
fn report_ready(app: &App, format: LogFormat) {
    let addresses = (app.rest_address(), app.http_address());
    report(&ready_line(
        &app.listens_on().to_string(),
        addresses,
        format,
    ));
}

pub(super) fn report(line: &str) {
    if let Err(error) = writeln!(std::io::stderr(), "{line}") {
        tracing::warn!(%error, "cannot write to stderr");
    }
}

/// Where a port is, for people.
pub(super) fn on(port: Option<String>) -> String {
    port.map_or("off".to_owned(), |port| format!("on {port}"))
}

/// The line for people, or one JSON object. `ports` are the JSON port and the side port.
fn ready_line(
    grpc: &str,
    ports: (Option<SocketAddr>, Option<SocketAddr>),
    format: LogFormat,
) -> String {
    let address = |port: Option<SocketAddr>| port.map(|address| address.to_string());
    let (rest, http) = (address(ports.0), address(ports.1));
    match format {
        LogFormat::Text => {
            let (rest, http) = (on(rest), on(http));
            format!("keyward is ready: gRPC on {grpc}, JSON {rest}, metrics and probes {http}")
        }
        LogFormat::Json => {
            let off = || "off".to_owned();
            serde_json::json!({
                "message": "keyward is ready",
                "listen": grpc,
                "rest_listen": rest.unwrap_or_else(off),
                "http_listen": http.unwrap_or_else(off),
            })
            .to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_names_each_port_or_says_that_it_is_off() {
        let port = |number| Some(SocketAddr::from(([127, 0, 0, 1], number)));
        for (ports, format, expected) in [
            (
                (port(8), port(7)),
                LogFormat::Text,
                "gRPC on a, JSON on 127.0.0.1:8, metrics and probes on 127.0.0.1:7",
            ),
            (
                (None, None),
                LogFormat::Text,
                "gRPC on a, JSON off, metrics and probes off",
            ),
            (
                (port(8), port(7)),
                LogFormat::Json,
                r#""rest_listen":"127.0.0.1:8""#,
            ),
            ((port(8), None), LogFormat::Json, r#""http_listen":"off""#),
        ] {
            let line = ready_line("a", ports, format);
            assert!(line.contains(expected), "{line}");
        }
    }
}

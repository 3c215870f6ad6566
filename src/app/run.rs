//! Runs the process from its start to its end by a signal.

use std::io::Write;
use std::net::SocketAddr;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{App, Parts, StartError};
use crate::config::{Listen, Settings};
use crate::system;
use keyward_ops::settings::Telemetry;
use keyward_ops::{Guard, LogFormat, OtherCrates};

/// The signal of a write over the file-size limit. It is caught, so that the write fails as on a full
/// disk and the process continues.
const SIGXFSZ: i32 = 25;

/// The number of control threads: the tail must run while a write uses the other thread.
const CONTROL_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub fn serve(settings: Settings) -> Result<(), StartError> {
    let telemetry = prepare(&settings.telemetry, "keyward", OtherCrates::Filtered)?;
    let parts = Parts {
        telemetry: telemetry.metrics(),
        ..Parts::system()
    };
    on_control(settings.workers, CONTROL_THREADS, run(&settings, parts))
}

/// Prepares the process, and starts the telemetry of the program `name`.
pub(super) fn prepare(
    settings: &Telemetry,
    name: &'static str,
    others: OtherCrates,
) -> Result<Guard, StartError> {
    keyward_ops::process::forbid_core_dumps()?;
    system::allow_open_files();
    Ok(keyward_ops::init(settings, name, others)?)
}

/// Runs `program` on `threads` control threads; without serving threads on this one, which does everything.
pub(super) fn on_control(
    workers: usize,
    threads: usize,
    program: impl Future<Output = Result<(), StartError>>,
) -> Result<(), StartError> {
    let mut runtime = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime
        .worker_threads(threads)
        .thread_name("control")
        .enable_all()
        .build()?
        .block_on(program)
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
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let rest = ("rest_listen", text(app.rest_address()));
    let side = ("http_listen", text(app.http_address()));
    let format = settings.telemetry.log_format;
    report_ready("keyward", app.listens_on(), rest, side, format);
    tokio::select! {
        () = signals.stop() => {}
        ended = app.task_ended() => {
            tracing::error!("stopping: {ended}");
            app.stop().await;
            return Err(ended.into());
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
    Ok(signal(kind)?)
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

/// The name of a port's setting, and where the port is.
type Port = (&'static str, Option<String>);

/// Writes the line that the parent process can wait for.
pub(super) fn report_ready(
    program: &str,
    grpc: &Listen,
    http: Port,
    side: Port,
    format: LogFormat,
) {
    let line = ready_line(program, grpc, http, side, format);
    if let Err(error) = writeln!(std::io::stderr(), "{line}") {
        tracing::warn!(%error, "cannot write to stderr");
    }
}

/// The line for people, or one JSON object.
fn ready_line(program: &str, grpc: &Listen, http: Port, side: Port, format: LogFormat) -> String {
    let message = format!("{program} is ready");
    match format {
        LogFormat::Text => {
            let on = |(_, at): Port| at.map_or("off".to_owned(), |at| format!("on {at}"));
            let (http, side) = (on(http), on(side));
            format!("{message}: gRPC on {grpc}, JSON {http}, metrics and probes {side}")
        }
        LogFormat::Json => {
            let off = |at: Option<String>| at.unwrap_or("off".to_owned());
            serde_json::json!({
                "message": message,
                "listen": grpc.to_string(),
                http.0: off(http.1),
                side.0: off(side.1),
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
        let at = |number| Some(format!("127.0.0.1:{number}"));
        let grpc = Listen::Unix("a".into());
        for (ports, format, expected) in [
            (
                (at(8), at(7)),
                LogFormat::Text,
                "gRPC on unix:a, JSON on 127.0.0.1:8, metrics and probes on 127.0.0.1:7",
            ),
            (
                (None, None),
                LogFormat::Text,
                "gRPC on unix:a, JSON off, metrics and probes off",
            ),
            (
                (at(8), at(7)),
                LogFormat::Json,
                r#""rest_listen":"127.0.0.1:8""#,
            ),
            ((at(8), None), LogFormat::Json, r#""http_listen":"off""#),
        ] {
            let (rest, side) = (("rest_listen", ports.0), ("http_listen", ports.1));
            let line = ready_line("keyward", &grpc, rest, side, format);
            assert!(line.contains(expected), "{line}");
        }
    }
}

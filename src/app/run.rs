//! The service process: from its settings to its end by a signal.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{App, Parts, StartError};
use crate::config::Settings;
use crate::system;
use keyward_ops::{LogFormat, OtherCrates};

/// The signal of a write beyond a file-size limit. The write must fail as on a full disk, and the
/// process must continue.
const SIGXFSZ: i32 = 25;

/// Threads of the control runtime. Two, so that the tail runs while a write computes.
const CONTROL_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub fn serve(settings: Settings) -> Result<(), StartError> {
    system::forbid_core_dumps().map_err(StartError::new)?;
    let filter = std::env::var("RUST_LOG").ok();
    let collector = settings.otlp_endpoint.as_ref().map(|url| url.expose());
    let (format, others) = (settings.log_format, OtherCrates::Filtered);
    let _telemetry =
        keyward_ops::init(format, filter.as_deref(), others, collector).map_err(StartError::new)?;
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
        .block_on(run_until_signal(settings))
}

async fn run_until_signal(settings: Settings) -> Result<(), StartError> {
    let catch = |kind| signal(kind).map_err(StartError::new);
    let (mut terminate, mut interrupt) = (
        catch(SignalKind::terminate())?,
        catch(SignalKind::interrupt())?,
    );
    let _over_limit: Signal = catch(SignalKind::from_raw(SIGXFSZ))?;
    let app = App::start(&settings, Parts::system()).await?;
    say_ready(&app, settings.log_format);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = app.broken() => {
            app.stop().await;
            return Err(StartError("a part of the service failed; see the log".to_owned()));
        }
    }
    tracing::info!("stopping: NOT_SERVING, waiting for open calls");
    tokio::select! {
        () = app.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        // A second Ctrl-C is deliberate; a supervisor can send TERM twice.
        _ = interrupt.recv() => Err(StartError("stopped at once by a second interrupt".to_owned())),
    }
}

/// Prints the line that supervisors and scripts can wait for.
fn say_ready(app: &App, format: LogFormat) {
    let grpc = app.grpc_address();
    let http = app
        .http_address()
        .map_or_else(|| "off".to_owned(), |address| address.to_string());
    let line = match format {
        LogFormat::Text => format!("keyward is ready: gRPC on {grpc}, metrics and probes on {http}"),
        LogFormat::Json => {
            serde_json::json!({"message": "keyward is ready", "listen": grpc.to_string(), "http_listen": http})
                .to_string()
        }
    };
    if let Err(error) = writeln!(std::io::stderr(), "{line}") {
        tracing::warn!(%error, "stderr is gone");
    }
}

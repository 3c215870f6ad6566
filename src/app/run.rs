//! The life of the process: from its settings to its end by a signal.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{App, Parts, StartError};
use crate::config::Settings;
use crate::system;
use keyward_ops::{self, LogFormat};

/// A write over a file-size limit raises it; as with a full disk, the write shall fail and the
/// process live on.
const SIGXFSZ: i32 = 25;

/// Threads of the control runtime: the tail goes on while a write computes.
const CONTROL_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub fn serve(settings: Settings) -> Result<(), StartError> {
    system::forbid_core_dumps().map_err(StartError::new)?;
    let filter = std::env::var("RUST_LOG").ok();
    let collector = settings
        .otlp_endpoint
        .as_ref()
        .map(|url| url.expose().to_owned());
    let _telemetry =
        keyward_ops::init(settings.log_format, filter.as_deref(), collector.as_deref())
            .map_err(StartError::new)?;
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
        .block_on(live(settings))
}

async fn live(settings: Settings) -> Result<(), StartError> {
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
            return Err(StartError("a part of the service failed; its log says which".to_owned()));
        }
    }
    tracing::info!("stopping: NOT_SERVING, calls under way end");
    tokio::select! {
        () = app.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        // A person who presses Ctrl-C again means it; a supervisor may say TERM twice.
        _ = interrupt.recv() => Err(StartError("stopped at once by an interrupt".to_owned())),
    }
}

/// The one line that whoever started the process may wait for.
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

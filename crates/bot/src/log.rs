//! The log on stderr. Of other crates only warnings get through, whatever is asked for: what they
//! say in detail holds URLs, and the URLs of the Bot API hold the token.

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for each event, for people.
    Text,
    /// One JSON object on a line for each event.
    Json,
}

/// Starts the log, filtered by `filter` (the text of `RUST_LOG`; `info` if there is none). A panic
/// is told by its place, not by its text.
///
/// # Errors
///
/// A filter that cannot be read, a second call in one process.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), String> {
    let filter = filter.filter(|text| !text.is_empty()).unwrap_or("info");
    let asked = EnvFilter::try_new(filter).map_err(|error| format!("RUST_LOG: {error}"))?;
    let ours =
        filter_fn(|meta| meta.target().starts_with("keyward") || *meta.level() <= Level::WARN);
    let log = fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(asked.and(ours)))
        .try_init()
        .map_err(|error| format!("the log: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.unwrap_or_default(), "panicked");
    }));
    Ok(())
}

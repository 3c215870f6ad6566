//! `keyward top`: the numbers of an instance's status page in the terminal.

mod frame;

use std::io::Write;
use std::time::Duration;

use http::StatusCode;
use keyward_ops::side_port;
use rustix::termios::tcgetwinsize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::render::{Report, for_people};
use super::{Console, Failure};
use crate::config::Settings;
use keyward_ops::samples::Samples;

/// The time between two frames.
const INTERVAL: Duration = Duration::from_secs(1);
/// Switches to a screen of its own without a cursor, so that the one before stays as it was, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the top left, the end of a line, and the end of a frame: what stands behind them is erased.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\r\n";
const END: &str = "\x1b[J";

/// What an instance says at one moment.
struct Look {
    status: Value,
    samples: Samples,
    at: Instant,
}

/// Shows the instance with this side port, every second until a signal; once if `once` is set or nobody sees
/// stdout.
pub(super) async fn run(
    console: &mut Console<'_>,
    endpoint: Option<&str>,
    once: bool,
    settings: &Settings,
) -> Result<Report, Failure> {
    let endpoint = match (endpoint, settings.http_listen) {
        (Some(given), _) => given.to_owned(),
        (None, Some(address)) if address.port() != 0 => address.to_string(),
        (None, _) => {
            let text =
                "the settings name no side port (`http_listen`): name it with --http-endpoint";
            return Err(Failure::Usage(text.to_owned()));
        }
    };
    if once || !console.is_screen {
        return Ok(Report::default().text(&once_from(&endpoint).await?));
    }
    let written = until_signal(console.out, &endpoint).await;
    written.map_err(|error| Failure::Failed(format!("cannot write to the terminal: {error}")))?;
    Ok(Report::default())
}

/// One frame. A rate needs a second.
async fn once_from(endpoint: &str) -> Result<String, Failure> {
    let unreachable = |why| {
        Failure::Failed(format!(
            "{}\n  check that the instance runs, and its side port (`http_listen`, or --http-endpoint)",
            frame::unreachable(endpoint, why)
        ))
    };
    let first = look(endpoint).await.map_err(unreachable)?;
    tokio::time::sleep(INTERVAL).await;
    let second = look(endpoint).await.map_err(unreachable)?;
    Ok(frame::of(endpoint, &second, Some(&first)))
}

async fn until_signal(out: &mut dyn Write, endpoint: &str) -> std::io::Result<()> {
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(interrupt), Ok(terminate)] = &mut signals else {
        return Err(std::io::Error::other("signals cannot be caught"));
    };
    out.write_all(ENTER.as_bytes())?;
    let shown = tokio::select! {
        shown = frames(out, endpoint) => shown,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    out.write_all(LEAVE.as_bytes())?;
    out.flush()?;
    shown
}

async fn frames(out: &mut dyn Write, endpoint: &str) -> std::io::Result<()> {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let text = match look(endpoint).await {
            Ok(look) => {
                let text = frame::of(endpoint, &look, before.as_ref());
                before = Some(look);
                text
            }
            Err(why) => frame::unreachable(endpoint, why),
        };
        out.write_all(on_screen(&text, size()).as_bytes())?;
        out.flush()?;
    }
}

/// The frame, cut to a terminal of this size.
fn on_screen(text: &str, (columns, rows): (usize, usize)) -> String {
    let text = for_people(text);
    let lines = text.lines().take(rows.saturating_sub(1));
    let lines = lines.map(|line| line.chars().take(columns).chain(END_OF_LINE.chars()));
    let shown: String = lines.flatten().collect();
    [HOME, &shown, END].concat()
}

/// The columns and rows of the terminal.
fn size() -> (usize, usize) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// What the instance says, or why it does not.
async fn look(endpoint: &str) -> Result<Look, String> {
    let ask = async |path: &str| match side_port::get(endpoint, path).await {
        Ok((StatusCode::OK, text)) => Ok(text),
        Ok((status, text)) => Err(format!("HTTP {}: {}", status.as_u16(), text.trim_end())),
        Err(error) => Err(error.to_string()),
    };
    let status = ask("/status.json").await?;
    let metrics = ask("/metrics").await?;
    let status: Value = serde_json::from_str(&status)
        .ok()
        .filter(Value::is_object)
        .ok_or("another program answers")?;
    Ok(Look {
        status,
        samples: Samples::read(&metrics),
        at: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_controls_nothing() {
        let shown = on_screen("one two\n\u{1b}[2Jthree\nfour\n", (6, 3));
        assert_eq!(shown, "\x1b[Hone tw\x1b[K\r\n\\u{1b}\x1b[K\r\n\x1b[J");
    }
}

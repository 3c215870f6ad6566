//! The timeline of a Revoke: the median time of each step, from the log of three instances.

use std::fmt::Write as _;
use std::time::SystemTime;

use keyward_testkit::Cluster;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::shared::{clients, issue};
use super::{BARE, BINARY, INSTANCES, ONE_CALLER_REVOKES, bare, options};

/// The target of the events.
const TARGET: &str = "keyward::timeline: ";
/// The revokes that are not measured: the first ones open connections and prepare statements.
const WARM: usize = 50;

/// The steps in order: what the table calls them, the text of the event, and whether it is an event of
/// the instance that the caller calls. Of the other instances, the last event counts.
const STEPS: [(&str, &str, bool); 11] = [
    ("the writer has the call", "started", true),
    ("key read", "planned", true),
    ("commit answered", "committed", true),
    ("notice sent", "notified", true),
    ("applied by the called instance", "applied", true),
    ("all instances woken", "woken", false),
    ("log read", "read", false),
    ("applied", "applied", false),
    ("acknowledged", "acknowledged", false),
    ("first poll answered", "polled", true),
    ("confirmed", "confirmed", true),
];

/// An event: microseconds since the epoch, and its text.
type Event = (i128, String);

fn events(output: &str) -> Vec<Event> {
    let parse = |line: &str| {
        let (head, text) = line.split_once(TARGET)?;
        let at = OffsetDateTime::parse(head.split_whitespace().next()?, &Rfc3339).ok()?;
        Some((at.unix_timestamp_nanos() / 1_000, text.to_owned()))
    };
    output.lines().filter_map(parse).collect()
}

fn now() -> i128 {
    OffsetDateTime::from(SystemTime::now()).unix_timestamp_nanos() / 1_000
}

/// The first event `text` between two times.
fn first(events: &[Event], text: &str, from: i128, to: i128) -> Option<i128> {
    let begin = events.partition_point(|(at, _)| *at < from);
    let mut events = events[begin..].iter().take_while(|(at, _)| *at <= to);
    events
        .find(|(_, event)| event.starts_with(text))
        .map(|(at, _)| *at)
}

/// Revokes keys one after the other, and returns the table of the steps.
pub(crate) async fn measure() -> String {
    let mut options = options(&[]);
    let filter = "warn,keyward::timeline=trace".to_owned();
    options.variables.push(("RUST_LOG", filter));
    let cluster = Cluster::start(BINARY, INSTANCES, options);
    let clients = clients(&cluster).await;
    let (keys, _) = issue(&clients, "timeline", WARM + ONE_CALLER_REVOKES).await;
    let mut calls = Vec::new();
    for (id, _) in keys {
        let start = now();
        clients[0].revoke(&id).await.unwrap();
        calls.push((start, now()));
    }
    let logs: Vec<Vec<Event>> = (0..INSTANCES)
        .map(|number| events(&cluster.instance(number).output()))
        .collect();
    let mut columns = vec![Vec::new(); STEPS.len() + 1];
    for (start, end) in calls.into_iter().skip(WARM) {
        let committed = first(&logs[0], "committed", start, end).unwrap();
        for (column, (_, text, is_own)) in columns.iter_mut().zip(STEPS) {
            let logs = if is_own { &logs[..1] } else { &logs[1..] };
            let from = if is_own { start } else { committed };
            // A heartbeat may have read the change before the notice came.
            let times: Option<Vec<_>> =
                logs.iter().map(|log| first(log, text, from, end)).collect();
            column.extend(times.and_then(|times| Some(times.into_iter().max()? - start)));
        }
        columns[STEPS.len()].push(end - start);
    }
    let mut bare_times = Vec::new();
    for (name, statement) in BARE {
        let mut times = bare(&cluster, statement).await;
        bare_times.push((name, times.quantile(0.5), times.quantile(0.99)));
    }
    let mut table =
        "| step of a Revoke, 1 caller | ms since the call, p50 | p99 |\n|---|---|---|\n".to_owned();
    let names = STEPS.iter().map(|(name, ..)| *name).chain(["returned"]);
    for (name, mut column) in names.zip(columns) {
        // Not each step happens in each call: perhaps the first poll confirms.
        if column.is_empty() {
            continue;
        }
        column.sort_unstable();
        let at = |percent: usize| column[column.len() * percent / 100] as f64 / 1_000.0;
        let _ = writeln!(table, "| {name} | {:.2} | {:.2} |", at(50), at(99));
    }
    for (name, p50, p99) in bare_times {
        let _ = writeln!(table, "| for comparison: {name} | {p50:.2} | {p99:.2} |");
    }
    table
}

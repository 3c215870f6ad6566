//! A history: what callers observed of their keys, by one monotonic clock, with one JSON line for
//! each event. `check` compares it with the promise.

mod checker;
mod report;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_proto::v1::{Consistency, Verdict, VerifyRequest};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::deadline::now;
use crate::requests::verifying;
use crate::{Client, Key};
pub use checker::{Unreadable, check, check_events};
pub use report::{Counts, Fault, Report, Violation};

/// One line. Times are microseconds since the start of the history.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The key exists from now on.
    Issued {
        /// The key.
        key: String,
        /// The time.
        at: u64,
    },
    /// A call that ends the key is about to be sent. Before this event, the key is valid.
    Dying {
        /// The key.
        key: String,
        /// The time.
        at: u64,
    },
    /// The key is promised to be dead from `at` on.
    Dead {
        /// The key.
        key: String,
        /// The time.
        at: u64,
        /// The instance to which this applies; `None` means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<usize>,
    },
    /// The promises that were made about the key before this event are void from `at` on, because
    /// the store lost its end.
    Revived {
        /// The key.
        key: String,
        /// The time.
        at: u64,
        /// The instance to which this applies; `None` means all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<usize>,
    },
    /// The answer of an instance.
    Verify {
        /// The key.
        key: String,
        /// The instance.
        instance: usize,
        /// When the call began.
        began: u64,
        /// When it ended.
        ended: u64,
        /// The verdict; `None` for UNAVAILABLE. A missing verdict is an error; null is not.
        #[serde(deserialize_with = "Option::deserialize")]
        verdict: Option<String>,
    },
}

/// The name of a verdict in a history: the wire name without its prefix.
fn name_of(verdict: Verdict) -> &'static str {
    let name = verdict.as_str_name();
    name.strip_prefix("VERDICT_").unwrap_or(name)
}

/// Whether a verdict has this name.
fn is_verdict(name: &str) -> bool {
    Verdict::from_str_name(&format!("VERDICT_{name}")).is_some()
}

/// Writes a history. All clones write to the same file.
#[derive(Clone)]
pub struct Recorder {
    zero: Instant,
    path: PathBuf,
    lines: Arc<Mutex<BufWriter<File>>>,
}

impl Recorder {
    /// Starts a history in a new file at `path`.
    pub fn new(path: &Path) -> Self {
        let file = File::create_new(path).expect("the history can be written");
        Self {
            zero: now(),
            path: path.to_path_buf(),
            lines: Arc::new(Mutex::new(BufWriter::new(file))),
        }
    }

    /// The time of this history, in microseconds.
    pub fn now(&self) -> u64 {
        micros(self.zero.elapsed())
    }

    /// Records that the key exists. Call it before the first Verify of the key.
    pub fn issued(&self, key: &str) {
        let (key, at) = (key.to_owned(), self.now());
        self.write(&Event::Issued { key, at });
    }

    /// Records that the call that ends the key is about to be sent.
    pub fn dying(&self, key: &str) {
        let (key, at) = (key.to_owned(), self.now());
        self.write(&Event::Dying { key, at });
    }

    /// Records that the key is promised to be dead after `after`, counted from now.
    pub fn dead(&self, key: &str, after: Duration) {
        let (key, at) = (key.to_owned(), self.now() + micros(after));
        let instance = None;
        self.write(&Event::Dead { key, at, instance });
    }

    /// Records the answer to a Verify that started at `began`: a verdict, or UNAVAILABLE.
    pub fn verify(&self, key: &str, instance: usize, began: u64, verdict: Option<Verdict>) {
        self.write(&Event::Verify {
            key: key.to_owned(),
            instance,
            began,
            ended: self.now(),
            verdict: verdict.map(|verdict| name_of(verdict).to_owned()),
        });
    }

    /// Verifies a key once and records the answer. A failure that `tolerates` accepts counts as
    /// UNAVAILABLE.
    ///
    /// # Panics
    ///
    /// The call fails in another way.
    pub async fn look(
        &self,
        client: &Client,
        instance: usize,
        key: &Key,
        consistency: Consistency,
        tolerates: impl Fn(&Status) -> bool,
    ) -> Option<Verdict> {
        let request = VerifyRequest {
            consistency: consistency.into(),
            ..verifying(&key.text)
        };
        let began = self.now();
        let verdict = match client.send(request).await {
            Ok(answer) => Some(answer.verdict()),
            Err(status) if tolerates(&status) => None,
            Err(status) => panic!("instance {instance}: {status:?}"),
        };
        self.verify(&key.id, instance, began, verdict);
        verdict
    }

    /// The file, with all events so far.
    pub fn finish(&self) -> &Path {
        let flushed = self.lines.lock().flush();
        flushed.expect("the history can be written");
        &self.path
    }

    fn write(&self, event: &Event) {
        let line = serde_json::to_string(event).expect("an event is JSON");
        let written = writeln!(self.lines.lock(), "{line}");
        written.expect("the history can be written");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

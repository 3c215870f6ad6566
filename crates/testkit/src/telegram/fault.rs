//! Faults that a test causes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::PATIENCE;

/// Whether a fault occurs before or after the execution of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before: the call is never executed.
    Before,
    /// After: the call is executed, but the bot does not get the response.
    After,
}

/// A fault of a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429, with `retry_after` in seconds. The call is not executed.
    TooManyRequests(u32),
    /// The connection is closed without a response.
    Drop(When),
    /// Another server responds, such as a proxy. The call is not executed.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body that replaces Telegram's JSON.
        body: String,
    },
    /// The call is executed after this time.
    Slow(Duration),
    /// The call waits; see [`super::Telegram::hold`].
    Hold(When, Gate),
}

impl Fault {
    /// The response of a proxy that cannot reach Telegram: 502 and an HTML page.
    pub fn bad_gateway() -> Self {
        let page = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>";
        Self::Answer {
            status: 502,
            body: page.to_owned(),
        }
    }
}

/// The progress of a held call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Expected,
    Arrived,
    /// The bot has closed the connection.
    Abandoned,
    Released,
}

/// Blocks a held call.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<Stage>>);

impl Gate {
    /// Records the arrival of the call and waits for its release. The wait also ends if the test
    /// has ended.
    pub(super) async fn pass(&self) {
        let mut stage = self.0.subscribe();
        self.step(Stage::Expected, Stage::Arrived);
        let waiting = Waiting(self);
        // The sender exists as long as this gate.
        let _ = stage.wait_for(|stage| *stage == Stage::Released).await;
        drop(waiting);
    }

    fn step(&self, from: Stage, to: Stage) {
        self.0.send_if_modified(|stage| {
            let steps = *stage == from;
            if steps {
                *stage = to;
            }
            steps
        });
    }
}

/// A waiting call. If it is dropped before its release, it was abandoned.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.step(Stage::Arrived, Stage::Abandoned);
    }
}

/// A held call. Dropping this releases the call.
pub struct HeldCall {
    when: When,
    gate: Gate,
}

impl HeldCall {
    pub(super) fn new(when: When) -> Self {
        let gate = Gate(Arc::new(watch::Sender::new(Stage::Expected)));
        Self { when, gate }
    }

    pub(super) fn fault(&self) -> Fault {
        Fault::Hold(self.when, self.gate.clone())
    }

    /// Waits until the call has arrived, and with [`When::After`] has been executed.
    pub async fn arrived(&self) {
        self.reaches("arrived", |stage| stage != Stage::Expected)
            .await;
    }

    /// Waits until the bot has closed the connection. A call held with [`When::Before`] is then
    /// never executed.
    pub async fn abandoned(&self) {
        self.reaches("was abandoned", |stage| stage == Stage::Abandoned)
            .await;
    }

    async fn reaches(&self, what: &str, is_so: impl Fn(Stage) -> bool) {
        let mut stage = self.gate.0.subscribe();
        let reached = stage.wait_for(|stage| is_so(*stage));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        let Ok(reached) = reached else {
            panic!("timed out after {PATIENCE:?}: the held call {what}");
        };
        reached.expect("the gate is there");
    }

    /// Releases the call.
    pub fn release(self) {}
}

impl Drop for HeldCall {
    fn drop(&mut self) {
        self.gate.0.send_replace(Stage::Released);
    }
}

/// The pending faults, in order.
#[derive(Default)]
pub(super) struct Faults(VecDeque<(String, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, method: &str, times: usize, fault: Fault) {
        let planned = std::iter::repeat_n((method.to_owned(), fault), times);
        self.0.extend(planned);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the fault for this call.
    pub(super) fn take(&mut self, method: &str) -> Option<Fault> {
        let at = self.0.iter().position(|(planned, _)| planned == method)?;
        self.0.remove(at).map(|(_, fault)| fault)
    }
}

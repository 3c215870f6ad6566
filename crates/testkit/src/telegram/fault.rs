//! What goes wrong on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::PATIENCE;

/// Whether a call has been performed when something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It has not, and then never is.
    Before,
    /// It has, and the bot does not know.
    After,
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429, with `retry_after` in seconds; the call is not performed.
    TooManyRequests(u32),
    /// The connection is closed without an answer.
    Drop(When),
    /// Something else answers, such as a proxy; the call is not performed.
    Answer {
        /// The HTTP status.
        status: u16,
        /// What stands in place of Telegram's JSON.
        body: String,
    },
    /// The call is performed after this time.
    Slow(Duration),
    /// The call waits; see [`super::Telegram::hold`].
    Hold(When, Gate),
}

impl Fault {
    /// What a proxy before Telegram says when that is away: 502, and a page in HTML.
    pub fn bad_gateway() -> Self {
        let page = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>";
        Self::Answer {
            status: 502,
            body: page.to_owned(),
        }
    }
}

/// Where a held call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Expected,
    Arrived,
    /// Whoever asked has gone away.
    Abandoned,
    Released,
}

/// What a held call waits for.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<Stage>>);

impl Gate {
    /// Says that the call is here, and waits until it may go on. It need not wait for a test that
    /// has gone away.
    pub(super) async fn pass(&self) {
        let mut stage = self.0.subscribe();
        self.step(Stage::Expected, Stage::Arrived);
        let waiting = Waiting(self);
        // The sender is there as long as this gate.
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

/// A call that waits; dropped before it is released, it was abandoned.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.step(Stage::Arrived, Stage::Abandoned);
    }
}

/// A call that is held. It goes on when this is dropped.
pub struct Held {
    when: When,
    gate: Gate,
}

impl Held {
    pub(super) fn new(when: When) -> Self {
        let gate = Gate(Arc::new(watch::Sender::new(Stage::Expected)));
        Self { when, gate }
    }

    pub(super) fn fault(&self) -> Fault {
        Fault::Hold(self.when, self.gate.clone())
    }

    /// Waits until the call is there (and performed, if it is held afterwards).
    pub async fn arrived(&self) {
        self.reaches("arrived", |stage| stage != Stage::Expected)
            .await;
    }

    /// Waits until whoever asked has closed the connection. A call held [`When::Before`] is then
    /// never performed.
    pub async fn abandoned(&self) {
        self.reaches("was abandoned", |stage| stage == Stage::Abandoned)
            .await;
    }

    async fn reaches(&self, what: &str, is_so: impl Fn(Stage) -> bool) {
        let mut stage = self.gate.0.subscribe();
        let reached = stage.wait_for(|stage| is_so(*stage));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        let Ok(reached) = reached else {
            panic!("waited {PATIENCE:?} in vain: the held call {what}");
        };
        reached.expect("the gate is there");
    }

    /// Lets it go on.
    pub fn release(self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.0.send_replace(Stage::Released);
    }
}

/// The faults that have not happened yet, in order.
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

    /// What happens to this call.
    pub(super) fn take(&mut self, method: &str) -> Option<Fault> {
        let at = self.0.iter().position(|(planned, _)| planned == method)?;
        self.0.remove(at).map(|(_, fault)| fault)
    }
}

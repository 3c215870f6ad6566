//! `getUpdates`: long polling.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Shared;
use super::calls::Refusal;
use super::parameters::Parameters as _;
use super::world::World;

/// Confirms the updates below `offset`, and waits up to `timeout` seconds for an update. A newer
/// poll ends this one.
pub(super) async fn poll(
    shared: &Shared,
    arguments: &Map<String, Value>,
) -> Result<Value, Refusal> {
    let limit = arguments.number("limit").unwrap_or(100).clamp(1, 100);
    let limit = usize::try_from(limit).unwrap_or(100);
    let seconds = arguments.number("timeout").unwrap_or(0).clamp(0, 50);
    let patience = Duration::from_secs(seconds.unsigned_abs());
    let mut changes = shared.changed.subscribe();
    let this = shared.change(|world| begin(world, arguments))?;
    let answer = async {
        loop {
            if shared.read(|world| !world.updates.again.is_empty()) {
                shared.change(|world| world.updates.confirm(0));
            }
            if let Some(answer) = shared.read(|world| ready(world, this, limit)) {
                return answer;
            }
            if changes.changed().await.is_err() {
                return Ok(json!([]));
            }
        }
    };
    let answer = tokio::time::timeout(patience, answer).await;
    answer.unwrap_or_else(|_| Ok(json!([])))
}

/// Starts a poll and returns its number.
fn begin(world: &mut World, arguments: &Map<String, Value>) -> Result<u64, Refusal> {
    if world.webhook.is_some() {
        return Err(conflict(
            "can't use getUpdates method while webhook is active; use deleteWebhook to delete the \
             webhook first",
        ));
    }
    if let Some(kinds) = arguments.value("allowed_updates") {
        world.updates.allow(&kinds);
    }
    world
        .updates
        .confirm(arguments.number("offset").unwrap_or(0));
    world.updates.polls += 1;
    Ok(world.updates.polls)
}

/// The response of a poll, if the poll need not wait.
fn ready(world: &World, this: u64, limit: usize) -> Option<Result<Value, Refusal>> {
    if world.updates.polls != this {
        return Some(Err(conflict(
            "terminated by other getUpdates request; make sure that only one bot instance is \
             running",
        )));
    }
    if world.webhook.is_some() {
        return Some(Err(conflict("terminated by setWebhook request")));
    }
    let pending = world.updates.pending.iter();
    let batch: Vec<_> = pending
        .take(limit)
        .map(|(_, update)| update.clone())
        .collect();
    (!batch.is_empty()).then_some(Ok(Value::Array(batch)))
}

fn conflict(why: &str) -> Refusal {
    Refusal::new(409, format!("Conflict: {why}"))
}

impl super::world::Updates {
    /// Sets the kinds of updates that the bot gets. An empty list means all.
    pub(super) fn allow(&mut self, kinds: &Value) {
        let named: Vec<String> = serde_json::from_value(kinds.clone()).unwrap_or_default();
        self.allowed = (!named.is_empty()).then_some(named);
    }
}

//! Tracks which updates are being handled, and so which offset Telegram may get: an offset confirms
//! all updates below it. An update is confirmed when it and all earlier ones are done, or released
//! because they hold up the later ones. Until then Telegram repeats it, and the bot ignores the
//! repetition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// The updates in flight.
pub struct InFlight {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The start time of each running update.
    running: BTreeMap<u32, Instant>,
    /// How many of the running ones were released.
    released: usize,
    /// Done or released, but Telegram may repeat them.
    done: BTreeSet<u32>,
    /// The latest id, plus one. Answers are in ascending order. It falls when Telegram starts again
    /// at a lower id.
    next: Option<u32>,
}

/// Marks its update as done when it is dropped.
pub struct InFlightGuard {
    all: Arc<InFlight>,
    id: u32,
}

impl InFlight {
    /// No updates.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State::default()),
        })
    }

    /// Starts an update; `None` if it is running, or done and not forgotten.
    pub fn begin(self: &Arc<Self>, id: u32) -> Option<InFlightGuard> {
        let mut is_new = false;
        self.state.send_modify(|state| {
            is_new = !state.done.contains(&id) && !state.running.contains_key(&id);
            if is_new {
                state.running.insert(id, Instant::now());
            }
            state.next = id.checked_add(1).or(state.next);
        });
        let all = Arc::clone(self);
        is_new.then(|| InFlightGuard { all, id })
    }

    /// The offset for Telegram: the lowest running update, or else the one after the last. `None`
    /// before the first update.
    pub fn offset(&self) -> Option<u32> {
        let state = self.state.borrow();
        state.running.keys().next().copied().or(state.next)
    }

    /// Forgets done updates below `offset`: Telegram has answered a call with this offset, so it
    /// does not repeat them.
    pub fn forget_below(&self, offset: u32) {
        self.state
            .send_modify(|state| state.done = state.done.split_off(&offset));
    }

    /// The latest id, plus one.
    pub fn next(&self) -> Option<u32> {
        self.state.borrow().next
    }

    /// Counts updates that started before `start` as done, as long as no more than `max` of them run.
    /// Returns their number.
    pub fn release(&self, start: Instant, max: usize) -> usize {
        let mut count = 0;
        self.state.send_modify(|state| {
            let old = state.running.extract_if(.., |_, since| *since < start);
            let old = old.take(max.saturating_sub(state.released));
            let old: Vec<_> = old.map(|(id, _)| id).collect();
            count = old.len();
            state.released += count;
            state.done.extend(old);
        });
        count
    }

    /// Forgets a done update, so that it is handled again if Telegram repeats it.
    pub fn forget(&self, id: u32) {
        self.state.send_modify(|state| {
            state.done.remove(&id);
        });
    }

    /// The number of running updates.
    pub fn count(&self) -> usize {
        self.state.borrow().running.len()
    }

    /// Waits until no update runs.
    pub async fn wait_idle(&self) {
        self.wait(|state| state.running.is_empty()).await;
    }

    /// Waits until this update does not run.
    pub async fn wait_done(&self, id: u32) {
        self.wait(|state| !state.running.contains_key(&id)).await;
    }

    async fn wait(&self, condition: impl FnMut(&State) -> bool) {
        // The wait cannot fail, because `self` holds the sender.
        let _ = self.state.subscribe().wait_for(condition).await;
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.all.state.send_modify(|state| {
            match state.running.remove(&self.id) {
                Some(_) => {
                    state.done.insert(self.id);
                }
                // It was released, and Telegram may number others by its id since.
                None => state.released = state.released.saturating_sub(1),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repeated_update_is_ignored_until_it_was_confirmed() {
        let all = InFlight::new();
        let five = all.begin(5).unwrap();
        drop(all.begin(6));
        all.forget_below(5);
        assert!(
            all.begin(6).is_none(),
            "Telegram repeats it, because 5 is not confirmed"
        );
        drop(five);
        assert!(
            all.begin(5).is_none() && all.begin(6).is_none(),
            "an answer to an earlier poll"
        );
        all.forget_below(7);
        assert!(
            all.begin(6).is_some(),
            "it was confirmed, and Telegram sends it again"
        );
        all.forget(6);
        assert!(all.begin(6).is_some());
    }

    #[test]
    fn a_released_update_does_not_hold_up_later_ones() {
        let all = InFlight::new();
        let start = Instant::now();
        let five = all.begin(5).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let later = Instant::now();
        let six = all.begin(6).unwrap();
        assert_eq!(all.release(start, 9), 0);
        assert_eq!(all.release(later, 0), 0);
        assert_eq!(all.release(later, 9), 1);
        assert_eq!((all.offset(), all.count()), (Some(6), 1));
        let again = [5, 6].map(|id| all.begin(id).is_none());
        assert_eq!(again, [true, true], "both still run");
        let rest = Instant::now() + Duration::from_secs(1);
        assert_eq!(all.release(rest, 1), 0, "one runs already");
        drop(five);
        assert_eq!(all.release(rest, 1), 1);
        drop(six);
        assert_eq!(all.offset(), Some(7));
    }

    #[test]
    fn numbering_can_start_again_at_a_lower_id() {
        let all = InFlight::new();
        assert_eq!(all.offset(), None);
        for (id, offset) in [(900, 901), (5, 6), (u32::MAX, 6)] {
            drop(all.begin(id));
            assert_eq!(all.offset(), Some(offset));
        }
    }

    /// One step of a model of Telegram, which repeats all updates from the last offset on.
    #[derive(Debug, Clone)]
    enum Step {
        Poll,
        Finish(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![Just(Step::Poll), (0usize..8).prop_map(Step::Finish)];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn each_update_runs_once_and_is_confirmed_after_it_is_done(steps in steps()) {
            let all = InFlight::new();
            let (mut running, mut started) = (Vec::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Poll => {
                        let offset = all.offset();
                        let from = offset.unwrap_or(10);
                        prop_assert!((10..from).all(|id| started.contains(&id)));
                        for id in from..from + 5 {
                            if let Some(guard) = all.begin(id) {
                                prop_assert!(started.insert(id), "{} runs twice", id);
                                running.push((id, guard));
                            }
                        }
                        offset.inspect(|offset| all.forget_below(*offset));
                    }
                    Step::Finish(at) if !running.is_empty() => {
                        drop(running.swap_remove(at % running.len()));
                    }
                    Step::Finish(_) => {}
                }
                prop_assert_eq!(all.count(), running.len());
                if let Some(lowest) = running.iter().map(|(id, _)| *id).min() {
                    prop_assert_eq!(all.offset(), Some(lowest));
                }
            }
        }
    }

    #[tokio::test]
    async fn waits_end_when_updates_are_done() {
        let all = InFlight::new();
        all.wait_idle().await;
        let (one, two) = (all.begin(1).unwrap(), all.begin(2).unwrap());
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.wait_done(1).await }
        });
        drop(one);
        waiting.await.unwrap();
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.wait_idle().await }
        });
        drop(two);
        waiting.await.unwrap();
    }
}

//! Which updates are being handled, and with it how far Telegram may be told that they were: an
//! update is confirmed only when it and all before it are done, or given up because they hold up all
//! that comes later. Until it is confirmed, Telegram gives it again with every answer; it is not done
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// The updates under way.
pub struct InFlight {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the time since which.
    running: BTreeMap<u32, Instant>,
    /// Done, and maybe given again.
    done: BTreeSet<u32>,
    /// One more than the highest id seen.
    next: Option<u32>,
}

/// Marks its update as done when it goes, however that comes.
pub struct Running {
    all: Arc<InFlight>,
    id: u32,
}

impl InFlight {
    /// None.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State::default()),
        })
    }

    /// Takes on an update; `None` if it is under way, or done and not forgotten.
    pub fn begin(self: &Arc<Self>, id: u32) -> Option<Running> {
        let mut is_new = false;
        self.state.send_modify(|state| {
            is_new = !state.done.contains(&id) && !state.running.contains_key(&id);
            if is_new {
                state.running.insert(id, Instant::now());
            }
            state.next = state.next.max(id.checked_add(1));
        });
        let all = Arc::clone(self);
        is_new.then(|| Running { all, id })
    }

    /// The offset for Telegram: the lowest update that is not done, or the one after the last. All
    /// before it are done. `None`: nothing was seen yet.
    pub fn offset(&self) -> Option<u32> {
        let state = self.state.borrow();
        state.running.keys().next().copied().or(state.next)
    }

    /// Forgets what is done and below `offset`: Telegram has answered a call with it, so it does not
    /// give that again.
    pub fn forget_below(&self, offset: u32) {
        self.state
            .send_modify(|state| state.done = state.done.split_off(&offset));
    }

    /// One more than the highest id seen.
    pub fn next(&self) -> Option<u32> {
        self.state.borrow().next
    }

    /// Counts as done what was under way before `then`: how many that are.
    pub fn give_up(&self, then: Instant) -> usize {
        let mut count = 0;
        self.state.send_modify(|state| {
            let old = state.running.extract_if(.., |_, since| *since < then);
            let old: Vec<_> = old.map(|(id, _)| id).collect();
            count = old.len();
            state.done.extend(old);
        });
        count
    }

    /// Telegram has begun to number anew, below what was seen.
    pub fn begin_anew(&self) {
        self.state.send_modify(|state| state.next = None);
    }

    /// Forgets that an update is done: if it comes again, that is Telegram's wish.
    pub fn forget(&self, id: u32) {
        self.state.send_modify(|state| {
            state.done.remove(&id);
        });
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.state.borrow().running.len()
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.until(|state| state.running.is_empty()).await;
    }

    /// Waits until this update is not under way.
    pub async fn done(&self, id: u32) {
        self.until(|state| !state.running.contains_key(&id)).await;
    }

    async fn until(&self, is_so: impl FnMut(&State) -> bool) {
        // The sender is here, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(is_so).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.all.state.send_modify(|state| {
            state.running.remove(&self.id);
            state.done.insert(self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_offset_is_the_lowest_that_is_not_done() {
        let all = InFlight::new();
        assert_eq!(all.offset(), None);
        let five = all.begin(5).unwrap();
        let six = all.begin(6).unwrap();
        assert!(all.begin(5).is_none(), "it is under way");
        assert_eq!((all.offset(), all.count()), (Some(5), 2));
        drop(six);
        assert_eq!(all.offset(), Some(5), "6 is done, 5 is not");
        drop(five);
        assert_eq!((all.offset(), all.count()), (Some(7), 0));
        drop(all.begin(u32::MAX));
        assert_eq!(all.offset(), Some(7));
    }

    #[test]
    fn what_is_given_again_is_not_done_again_unless_it_was_confirmed() {
        let all = InFlight::new();
        let five = all.begin(5).unwrap();
        drop(all.begin(6));
        all.forget_below(5);
        assert!(
            all.begin(6).is_none(),
            "Telegram gives it again for the sake of 5"
        );
        drop(five);
        assert!(
            all.begin(5).is_none() && all.begin(6).is_none(),
            "an answer from before"
        );
        all.forget_below(7);
        assert!(
            all.begin(6).is_some(),
            "it was confirmed, and comes again all the same"
        );
        all.forget(6);
        assert!(all.begin(6).is_some());
    }

    #[test]
    fn what_takes_too_long_no_longer_holds_up_the_rest() {
        let all = InFlight::new();
        let begun = Instant::now();
        let five = all.begin(5).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let then = Instant::now();
        let six = all.begin(6).unwrap();
        assert_eq!(all.give_up(begun), 0);
        assert_eq!(all.give_up(then), 1);
        assert_eq!((all.offset(), all.count()), (Some(6), 1));
        assert!(all.begin(5).is_none(), "it is still being done");
        drop((five, six));
        assert_eq!(all.offset(), Some(7));
    }

    #[test]
    fn numbers_may_begin_anew() {
        let all = InFlight::new();
        drop(all.begin(900));
        all.begin_anew();
        let five = all.begin(5).unwrap();
        assert_eq!(all.offset(), Some(5));
        drop(five);
        assert_eq!((all.offset(), all.next()), (Some(6), Some(6)));
    }

    /// Telegram, as it gives updates: those from the highest offset on, again and again.
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
        fn each_update_is_done_once_and_none_is_confirmed_before_it_is_done(steps in steps()) {
            let all = InFlight::new();
            let (mut running, mut begun) = (Vec::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Poll => {
                        let offset = all.offset();
                        let from = offset.unwrap_or(10);
                        prop_assert!((10..from).all(|id| begun.contains(&id)));
                        for id in from..from + 5 {
                            if let Some(one) = all.begin(id) {
                                prop_assert!(begun.insert(id), "{} is done twice", id);
                                running.push((id, one));
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
    async fn waiting_ends_when_it_is_done() {
        let all = InFlight::new();
        all.idle().await;
        let (one, two) = (all.begin(1).unwrap(), all.begin(2).unwrap());
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.done(1).await }
        });
        drop(one);
        waiting.await.unwrap();
        let waiting = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.idle().await }
        });
        drop(two);
        waiting.await.unwrap();
    }
}

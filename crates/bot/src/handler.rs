//! Handles one event: asks `flow` what to do, calls Keyward, and shows the result. Events of one
//! user arrive one after the other, so the state of a user does not change during a call.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::account::Accounts;
use crate::authority::Authority;
use crate::callback::{Action, InvalidData};
use crate::events::{Command, Event, Person, Request, Tap};
use crate::flow::{self, Allowance, Context, CurrentKey, Note, Problem};
use crate::flow::{RevokeResult, Step, View};
use crate::i18n::Id;
use crate::limits::Limits;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::revoke_outcomes::RevokeOutcomes;
use crate::telegram::MessageId;

/// The bot announces a Revoke that takes longer.
const SLOW_REVOKE: Duration = Duration::from_secs(1);

/// Handles the events of all users.
pub struct Handler {
    pub(crate) messages: Arc<Messages>,
    pub(crate) authority: Authority,
    pub(crate) accounts: Accounts,
    pub(crate) limits: Limits,
    pub(crate) outcomes: RevokeOutcomes,
    pub(crate) metrics: Arc<Metrics>,
}

impl Handler {
    /// Handles an event. A panic ends here, so that other users are served on.
    pub async fn handle(&self, event: Event) {
        let (kind, person) = (event.request.kind(), event.person);
        self.guard(kind, person, self.turn(event)).await;
    }

    async fn guard(
        &self,
        kind: &'static str,
        person: Person,
        turn: impl Future<Output = &'static str>,
    ) {
        let start = Instant::now();
        let outcome = AssertUnwindSafe(turn).catch_unwind().await;
        let outcome = outcome.unwrap_or("panicked");
        if outcome == "panicked" {
            tracing::error!(kind, "handling an update panicked");
            // The state of the existing message is unknown, so the user gets a new one.
            let sending = AssertUnwindSafe(self.show(person, None, &View::Failed));
            drop(sending.catch_unwind().await);
        }
        self.metrics.update(kind, outcome, start.elapsed());
        tracing::debug!(kind, outcome, "an update was handled");
    }

    async fn turn(&self, Event { person, request }: Event) -> &'static str {
        if self.limits.updates.take(person.id, Instant::now()).is_err() {
            self.metrics.limited("updates");
            return "flood";
        }
        match request {
            Request::Command(Command::Start) => self.act(person, None, Action::Menu).await,
            Request::Command(Command::ApiKey) => self.act(person, None, Action::Key).await,
            Request::Command(Command::Help) | Request::Other => {
                self.show(person, None, &View::Help).await;
            }
            Request::Group(chat) => self.messages.send_to_group(person, chat).await,
            Request::Tap(tap) => return self.tap(person, tap).await,
        }
        "ok"
    }

    async fn tap(&self, person: Person, tap: Tap) -> &'static str {
        let answer = |text| self.messages.answer(person, &tap.query, text);
        let Some(message) = tap.message else {
            answer(Some(Id::ANSWER_PRIVATE_ONLY)).await;
            return "not_private";
        };
        match self.messages.action(person, &tap.data) {
            // The button shows a spinner until the answer, and users press again meanwhile. But
            // Telegram may be slow, and a Revoke does not wait for it.
            Ok(action) => {
                tokio::join!(answer(None), self.act(person, Some(message), action));
                "ok"
            }
            Err(InvalidData::OtherVersion) => {
                answer(None).await;
                let menu = View::Menu {
                    account: self.accounts.of(person.id),
                    note: Some(Note::OldButton),
                };
                self.show(person, Some(message), &menu).await;
                "old"
            }
            Err(InvalidData::Forged) => {
                self.metrics.forged.inc();
                answer(Some(Id::ANSWER_NOT_YOURS)).await;
                "forged"
            }
        }
    }

    async fn act(&self, person: Person, message: Option<MessageId>, action: Action) {
        let context = Context {
            account: self.accounts.of(person.id),
            user_id: person.id,
            outcomes: self.outcomes.of(person.id),
            shown: message.and_then(|message| self.messages.key(person, message)),
            now: u32::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(u32::MAX),
        };
        let (view, allowance) = match flow::first_step(action, &context) {
            Step::Ignore => return,
            Step::Show(view) => (view, None),
            Step::Open(cancelled) => match self.take(person, Some(Allowance::Reveals)) {
                Ok(()) => (
                    flow::opened(cancelled, self.current_key(person).await),
                    None,
                ),
                Err(limited) => (limited, None),
            },
            Step::Ask(note, key_id) => {
                flow::asked(note, key_id, self.current_key(person).await, context.now)
            }
            Step::Revoke(key_id, allowance) => match self.take(person, allowance) {
                Ok(()) => return self.revoke(person, message, key_id).await,
                Err(limited) => (limited, None),
            },
        };
        let view = self.take(person, allowance).err().unwrap_or(view);
        self.show(person, message, &view).await;
    }

    /// Takes one from the allowance; `Err` is the view that says when there is more.
    fn take(&self, person: Person, allowance: Option<Allowance>) -> Result<(), View> {
        let Some(allowance) = allowance else {
            return Ok(());
        };
        let limit = self.limits.of(allowance);
        limit.take(person.id, Instant::now()).map_err(|wait| {
            self.metrics.limited(allowance.name());
            View::Limited(allowance, wait)
        })
    }

    async fn current_key(&self, person: Person) -> Result<CurrentKey, Problem> {
        let account = self.accounts.of(person.id);
        flow::current_key(&account, self.authority.issue(&account).await)
    }

    /// Revokes the key and shows the result.
    async fn revoke(&self, person: Person, message: Option<MessageId>, key_id: Uuid) {
        // Before the call: this task may end before the answer.
        self.outcomes.set(person.id, key_id, true);
        let call = self.authority.replace(key_id);
        tokio::pin!(call);
        let (message, answer) = match tokio::time::timeout(SLOW_REVOKE, &mut call).await {
            Ok(answer) => (message, answer),
            Err(_) => {
                let announcement = View::Revoking { key_id };
                tokio::join!(self.messages.show(person, message, &announcement), call)
            }
        };
        let result = flow::revoke_result(&self.accounts.of(person.id), answer);
        self.metrics.revoke(result.name());
        self.outcomes.set(person.id, key_id, result.is_unclear());
        let elsewhere = |hint| result.view_elsewhere(hint);
        let here = async {
            let view = self.view_after(person, key_id, result.clone()).await;
            self.show(person, message, &view).await;
        };
        let superseding = self
            .messages
            .supersede(person.id, key_id, message, elsewhere);
        tokio::join!(superseding, here);
    }

    async fn view_after(&self, person: Person, key_id: Uuid, result: RevokeResult) -> View {
        match result {
            RevokeResult::Replaced(time, current) => View::Key(Some(Note::Replaced(time)), current),
            RevokeResult::Ended(note) => View::current(Some(note), self.current_key(person).await),
            RevokeResult::Unclear { committed } => View::Unclear { key_id, committed },
        }
    }

    async fn show(&self, person: Person, message: Option<MessageId>, view: &View) {
        self.messages.show(person, message, view).await;
    }
}

#[cfg(test)]
mod tests;

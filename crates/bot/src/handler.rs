//! Handles one event: asks `flow` what to do, calls Keyward, and shows the result. Events of one
//! user arrive one after the other, so the state of a user does not change during a call.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::account::{Accounts, Place};
use crate::answers::{self, CurrentKey, Problem, RevokeResult};
use crate::authority::Authority;
use crate::callback::{Action, Callback, InvalidData, Revocation};
use crate::events::{Command, Event, Person, Request, Tap};
use crate::flow::{self, Allowance, Context, Note, Step, Unclear, View};
use crate::i18n::Id;
use crate::limits::Limits;
use crate::messages::Messages;
use crate::metrics::{Metrics, count};
use crate::revoke_outcomes::RevokeOutcomes;
use crate::telegram::MessageId;

/// The bot announces a Revoke that takes longer.
const SLOW_REVOKE: Duration = Duration::from_secs(1);

/// Handles the events of all users.
pub struct Handler {
    pub(crate) messages: Arc<Messages>,
    pub(crate) authority: Authority,
    pub(crate) accounts: Accounts,
    pub(crate) limits: Arc<Limits>,
    pub(crate) outcomes: Arc<RevokeOutcomes>,
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
            let sending = AssertUnwindSafe(self.tell(person, None, &View::Failed));
            drop(sending.catch_unwind().await);
        }
        self.metrics.update(kind, outcome, start.elapsed());
        tracing::debug!(kind, outcome, "an update was handled");
    }

    async fn turn(&self, Event { person, request }: Event) -> &'static str {
        let user = (self.messages.bot, person.id);
        if self.limits.updates.take(user, Instant::now()).is_err() {
            count(&self.metrics.limited, "limit", "updates");
            return "flood";
        }
        match request {
            Request::Command(Command::Start) => self.command(person, Action::Menu).await,
            Request::Command(Command::ApiKey) => self.command(person, Action::Key).await,
            Request::Command(Command::Help) | Request::Other => {
                self.tell(person, None, &View::Help).await;
            }
            Request::Group(chat) => self.messages.send_to_group(person, chat).await,
            Request::Tap(tap) => return self.tap(person, tap).await,
        }
        "ok"
    }

    async fn command(&self, person: Person, action: Action) {
        let callback = Callback { action, tag: None };
        self.act(person, None, callback, None).await;
    }

    async fn tap(&self, person: Person, tap: Tap) -> &'static str {
        let answer = |text| self.messages.answer(person, &tap.query, text);
        let Some(message) = tap.message else {
            answer(Some(Id::ANSWER_PRIVATE_ONLY)).await;
            return "not_private";
        };
        let read = self.messages.action(person, tap.data.expose());
        let (callback, note, outcome) = match read {
            Ok(callback) => (callback, None, "ok"),
            Err(InvalidData::OtherVersion) => {
                let (action, tag) = (Action::Account, None);
                (Callback { action, tag }, Some(Note::OldButton), "old")
            }
            Err(InvalidData::Forged) => {
                self.metrics.forged.inc();
                answer(Some(Id::ANSWER_NOT_YOURS)).await;
                return "forged";
            }
        };
        // The button shows a spinner until the answer, and users press again meanwhile. But
        // Telegram may be slow, and a Revoke does not wait for it.
        let act = self.act(person, Some(message), callback, note);
        tokio::join!(answer(None), act);
        outcome
    }

    /// Acts in the account that the user has now. With a note, only shows the account.
    async fn act(
        &self,
        person: Person,
        message: Option<MessageId>,
        callback: Callback,
        note: Option<Note>,
    ) {
        let account = match self.accounts.of(person).await {
            Ok(account) => account,
            Err(reason) => {
                let view = View::NoAccount(reason, callback);
                return self.tell(person, message, &view).await;
            }
        };
        let slots = &self.messages.screens.slots;
        let accounts_change = matches!(self.accounts, Accounts::Host(_));
        let target = flow::target(callback, &account.id, slots, accounts_change);
        let Some((action, place)) = target.filter(|_| note.is_none()) else {
            let note = note.unwrap_or(Note::OtherPlace);
            let view = View::Account(Some(note), account, person.id);
            return self.tell(person, message, &view).await;
        };
        let context = Context {
            account,
            user_id: person.id,
            outcomes: self.outcomes.of(&place),
            shown: message.and_then(|message| self.messages.key(person, message)),
            now: u32::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(u32::MAX),
        };
        let step = flow::first_step(action, &context);
        let view = match (self.take(person, step.allowance()), step) {
            (_, Step::Ignore) => return,
            (Err(limited), _) => limited,
            (Ok(()), Step::Show(view)) => view,
            (Ok(()), Step::Open(cancelled)) => {
                flow::opened(cancelled, self.current_key(&place).await)
            }
            (Ok(()), Step::Ask(note, key_id)) => {
                flow::asked(note, key_id, self.current_key(&place).await, context.now)
            }
            (Ok(()), Step::Revoke(revocation, _)) => {
                return self.revoke(person, message, &place, revocation).await;
            }
        };
        self.messages.show(person, message, &place, &view).await;
    }

    /// Takes one from the allowance; `Err` is the view that says when there is more.
    fn take(&self, person: Person, allowance: Option<Allowance>) -> Result<(), View> {
        let Some(allowance) = allowance else {
            return Ok(());
        };
        let limit = self.limits.of(allowance);
        let user = (self.messages.bot, person.id);
        limit.take(user, Instant::now()).map_err(|wait| {
            count(&self.metrics.limited, "limit", allowance.name());
            View::Limited(allowance, wait)
        })
    }

    async fn current_key(&self, place: &Place) -> Result<CurrentKey, Problem> {
        answers::current_key(&place.account, self.authority.issue(place).await)
    }

    /// Revokes the key and shows the result.
    async fn revoke(
        &self,
        person: Person,
        message: Option<MessageId>,
        place: &Place,
        revocation: Revocation,
    ) {
        // Before the call: this task may end before the answer.
        self.outcomes.set(place, revocation, true);
        let call = self.authority.replace(revocation);
        tokio::pin!(call);
        let show =
            async |message, view: &View| self.messages.show(person, message, place, view).await;
        let (message, answer) = match tokio::time::timeout(SLOW_REVOKE, &mut call).await {
            Ok(answer) => (message, answer),
            Err(_) => {
                let announcement = View::Unclear(revocation, Unclear::Running);
                tokio::join!(show(message, &announcement), call)
            }
        };
        let result = answers::revoke_result(&place.account, answer);
        count(&self.metrics.revokes, "outcome", result.name());
        self.outcomes.set(place, revocation, result.is_unclear());
        let elsewhere = |hint| result.view_elsewhere(hint);
        let here = async {
            let view = match result.clone() {
                RevokeResult::Replaced(end, current) => {
                    View::Key(Some(Note::Replaced(end)), current)
                }
                RevokeResult::Ended(note) => {
                    View::current(Some(note), self.current_key(place).await)
                }
                RevokeResult::Unclear(why) => View::Unclear(revocation, why),
            };
            show(message, &view).await;
        };
        let key_id = revocation.key_id;
        let superseding = self.messages.supersede(person, key_id, message, elsewhere);
        tokio::join!(superseding, here);
    }

    /// Shows a view that is about no slot.
    async fn tell(&self, person: Person, message: Option<MessageId>, view: &View) {
        let nowhere = Place::default();
        self.messages.show(person, message, &nowhere, view).await;
    }
}

#[cfg(test)]
mod tests;

//! One event, from what is asked to what is shown. Events of one user come here one after the
//! other, so nothing of a user changes under way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::account::Accounts;
use crate::authority::Authority;
use crate::board::{Board, Place, log_failure};
use crate::callback::{Action, Refused};
use crate::confirmed::{Confirmed, End};
use crate::events::{Command, Event, Person, Tap};
use crate::flow::{self, Note, Present, Revoked, Trouble, View};
use crate::i18n::Id;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// A Revoke that takes longer is announced.
const SLOW: Duration = Duration::from_secs(1);

/// What handling takes.
pub struct Handler {
    /// Where things are shown.
    pub board: Board,
    /// Where keys are.
    pub authority: Authority,
    /// Whose account is whose.
    pub accounts: Accounts,
    /// How often users may do them.
    pub limits: Limits,
    /// What users have confirmed.
    pub confirmed: Confirmed,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Handler {
    /// Handles an event to its end, whatever happens.
    pub async fn handle(&self, event: Event) {
        let (kind, person) = (event.kind(), event.person());
        self.guard(kind, person, self.turn(event)).await;
    }

    /// Takes a turn of this user, counts it, and ends a panic here: others are served on.
    async fn guard(
        &self,
        kind: &'static str,
        person: Option<Person>,
        turn: impl Future<Output = &'static str>,
    ) {
        let begun = Instant::now();
        let turn = AssertUnwindSafe(turn).catch_unwind().await;
        let outcome = turn.unwrap_or("panicked");
        if let (Some(person), "panicked") = (person, outcome) {
            tracing::error!(kind, "handling an update panicked");
            // The message that was there may show anything; it stays, and this is said below it.
            let telling = AssertUnwindSafe(self.say(person, None, &View::Failed));
            drop(telling.catch_unwind().await);
        }
        self.metrics.update(kind, outcome, begun.elapsed());
        tracing::debug!(kind, outcome, "an update was handled");
    }

    async fn turn(&self, event: Event) -> &'static str {
        let Some(person) = event.person() else {
            return "ignored";
        };
        if self.limits.updates.take(person.id, Instant::now()).is_err() {
            self.metrics.limited("updates");
            return "flood";
        }
        match event {
            Event::Command(person, Command::Start) => {
                self.say(person, None, &self.menu(person, None)).await
            }
            Event::Command(person, Command::Help) | Event::Other(person) => {
                self.say(person, None, &View::Help).await;
            }
            Event::Command(person, Command::ApiKey) => self.show(person, None, None).await,
            Event::Group(person, chat) => {
                let screen = self.board.screens.render(person.language, &View::Group);
                let sent = self.board.telegram.send_to_group(chat, &screen).await;
                log_failure("saying in a group that this is not the place", sent);
            }
            Event::Tap(person, tap) => return self.tap(person, tap).await,
            Event::Nothing => {}
        }
        "ok"
    }

    async fn tap(&self, person: Person, tap: Tap) -> &'static str {
        let (Some(message), action) = (
            tap.message,
            self.board.telegram.codec().read(person.id, &tap.data),
        ) else {
            self.answer(person, &tap, Some(Id::ANSWER_PRIVATE_ONLY))
                .await;
            return "not_private";
        };
        let place = Some(message);
        let action = match action {
            Ok(action) => action,
            Err(Refused::Version) => {
                self.answer(person, &tap, None).await;
                let menu = self.menu(person, Some(Note::OldButton));
                self.say(person, place, &menu).await;
                return "old";
            }
            Err(Refused::Forged) => {
                self.metrics.forged.inc();
                self.answer(person, &tap, Some(Id::ANSWER_NOT_YOURS)).await;
                return "forged";
            }
        };
        // At once: until then the button turns, and people press again. But Telegram may be slow
        // to take it, and a Revoke waits for nothing.
        tokio::join!(
            self.answer(person, &tap, None),
            self.act(person, message, action)
        );
        "ok"
    }

    async fn act(&self, person: Person, message: i32, action: Action) {
        let place = Some(message);
        match action {
            Action::Menu => self.say(person, place, &self.menu(person, None)).await,
            Action::Account => {
                let view = View::Account {
                    account: self.accounts.of(person.id),
                    user_id: person.id,
                };
                self.say(person, place, &view).await;
            }
            Action::Key => self.show(person, place, None).await,
            Action::Cancel(key_id) => self.show(person, place, Some(key_id)).await,
            Action::Revoke(key_id) => self.ask(person, message, key_id).await,
            Action::Confirm(key_id) => self.confirm(person, place, key_id).await,
        }
    }

    fn menu(&self, person: Person, note: Option<Note>) -> View {
        View::Menu {
            account: self.accounts.of(person.id),
            note,
        }
    }

    /// Shows the key as it is now; but while the end of a Revoke is unclear, that comes first. With
    /// `kept`, the question whether to revoke that key was answered with no.
    async fn show(&self, person: Person, place: Place, kept: Option<Uuid>) {
        if let Some(key_id) = self.confirmed.unclear(person.id) {
            return self.revoke(person, place, key_id).await;
        }
        if let Err(wait) = self.limits.reveals.take(person.id, Instant::now()) {
            self.metrics.limited("reveals");
            return self.say(person, place, &View::LimitedReveals(wait)).await;
        }
        let view = match self.present(person).await {
            Ok(present) => View::Key(kept.map(|key_id| flow::kept(key_id, &present)), present),
            Err(trouble) => View::Trouble(None, trouble),
        };
        self.say(person, place, &view).await;
    }

    async fn present(&self, person: Person) -> Result<Present, Trouble> {
        let account = self.accounts.of(person.id);
        flow::present(&account, self.authority.present(&account).await)
    }

    /// Asks whether to revoke this key, if it is the key of the account; otherwise says so. What
    /// this process has shown in this message, and not replaced since, need not be looked up.
    async fn ask(&self, person: Person, message: i32, key_id: Uuid) {
        let place = Some(message);
        if let Some(key_id) = self.confirmed.unclear(person.id) {
            return self.revoke(person, place, key_id).await;
        }
        let known = self.board.key(person, message);
        if let Some(key) = known.filter(|key| key.key_id == key_id) {
            return self.say(person, place, &View::Ask(key)).await;
        }
        let view = match self.present(person).await {
            Ok(present) if present.key().key_id == key_id => View::Ask(present.key().clone()),
            Ok(present) => {
                if let Err(wait) = self.limits.reveals.take(person.id, Instant::now()) {
                    self.metrics.limited("reveals");
                    return self.say(person, place, &View::LimitedReveals(wait)).await;
                }
                View::Key(Some(Note::Changed), present)
            }
            Err(trouble) => View::Trouble(None, trouble),
        };
        self.say(person, place, &view).await;
    }

    /// Only a Revoke of another key takes from the allowance of revocations. The same again shows
    /// its successor again, which is a reveal; and while its end is unclear, it is free.
    async fn confirm(&self, person: Person, place: Place, key_id: Uuid) {
        let now = Instant::now();
        let limited = match self.confirmed.end(person.id, key_id) {
            Some(End::Unclear) => None,
            Some(End::Clear) => {
                let shown = place.and_then(|message| self.board.key(person, message));
                if shown.is_some_and(|key| key.key_id != key_id) {
                    // A second tap: what it asks for stands here already.
                    return;
                }
                let taken = self.limits.reveals.take(person.id, now);
                taken
                    .err()
                    .map(|wait| ("reveals", View::LimitedReveals(wait)))
            }
            None => {
                let taken = self.limits.revokes.take(person.id, now);
                taken
                    .err()
                    .map(|wait| ("revokes", View::LimitedRevokes(wait)))
            }
        };
        if let Some((limit, view)) = limited {
            self.metrics.limited(limit);
            return self.say(person, place, &view).await;
        }
        self.revoke(person, place, key_id).await;
    }

    /// Revokes the key, and shows what is known then: nothing but that.
    async fn revoke(&self, person: Person, place: Place, key_id: Uuid) {
        // Until it is answered, and also if this is never heard of again.
        self.confirmed.set(person.id, key_id, End::Unclear);
        let revoking = self.authority.replace(key_id);
        tokio::pin!(revoking);
        let (place, answer) = match tokio::time::timeout(SLOW, &mut revoking).await {
            Ok(answer) => (place, answer),
            Err(_) => {
                let announced = View::Revoking { key_id };
                tokio::join!(self.board.put(person, place, &announced), revoking)
            }
        };
        let account = self.accounts.of(person.id);
        let revoked = flow::revoked(&account, answer);
        self.metrics.revoke(outcome(&revoked));
        let end = match revoked {
            Revoked::Unclear { .. } => End::Unclear,
            Revoked::Replaced(..) | Revoked::See(_) => End::Clear,
        };
        self.confirmed.set(person.id, key_id, end);
        let elsewhere: fn(String, Option<Note>) -> View = |hint, note| match note {
            Some(Note::Replaced(time) | Note::Already(time)) => View::Dead(hint, time),
            Some(_) => View::Gone(hint),
            None => View::Hidden(None, hint),
        };
        let note = match &revoked {
            Revoked::Replaced(time, _) => Some(Note::Replaced(*time)),
            Revoked::See(note) => Some(note.clone()),
            Revoked::Unclear { .. } => None,
        };
        let others = |hint| elsewhere(hint, note.clone());
        tokio::join!(
            self.board.supersede(person.id, key_id, place, others),
            self.tell(person, place, key_id, revoked)
        );
    }

    /// Tells how a Revoke of this key ended.
    async fn tell(&self, person: Person, place: Place, key_id: Uuid, revoked: Revoked) {
        let view = match revoked {
            Revoked::Replaced(time, present) => View::Key(Some(Note::Replaced(time)), present),
            Revoked::See(note) => match self.present(person).await {
                Ok(present) => View::Key(Some(note), present),
                Err(trouble) => View::Trouble(Some(note), trouble),
            },
            Revoked::Unclear { committed } => View::Unclear { key_id, committed },
        };
        self.say(person, place, &view).await;
    }

    async fn say(&self, person: Person, place: Place, view: &View) {
        self.board.put(person, place, view).await;
    }

    async fn answer(&self, person: Person, tap: &Tap, text: Option<Id>) {
        let texts = self.board.screens.texts();
        let text = text.map(|id| texts.plain(person.language, id));
        let answered = self.board.telegram.answer(&tap.query, text).await;
        log_failure("answering a tap", answered);
    }
}

const fn outcome(revoked: &Revoked) -> &'static str {
    match revoked {
        Revoked::Replaced(..) => "replaced",
        Revoked::See(Note::Expired) => "expired",
        Revoked::See(Note::UnknownKey) => "unknown_key",
        Revoked::See(_) => "already",
        Revoked::Unclear { .. } => "unclear",
    }
}

#[cfg(test)]
mod tests;

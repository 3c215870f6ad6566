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
use crate::callback::{Action, Refused};
use crate::confirmed::{Confirmed, End};
use crate::events::{Command, Event, Person, Tap};
use crate::flow::{self, Note, Revoked, View};
use crate::i18n::Id;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::screens::{Screen, Screens};
use crate::shown::{self, Shown};
use crate::telegram::Telegram;
use crate::telegram::failure::Failure;

/// A Revoke that takes longer is announced.
const SLOW: Duration = Duration::from_secs(1);

/// What handling takes.
pub struct Handler {
    /// Where users are.
    pub telegram: Telegram,
    /// Where keys are.
    pub authority: Authority,
    /// Whose account is whose.
    pub accounts: Accounts,
    /// What things look like.
    pub screens: Screens,
    /// How often users may do them.
    pub limits: Limits,
    /// When a shown key is hidden. `None`: not by time.
    pub hide_after: Option<Duration>,
    /// What users have confirmed.
    pub confirmed: Confirmed,
    /// Which messages show a key.
    pub shown: Shown,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Where a screen goes: in the place of this message, or into a new one.
type Place = Option<i32>;

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
                let screen = self.screens.render(person.language, &View::Group);
                let sent = self.telegram.send_to_group(chat, &screen).await;
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
            self.telegram.codec().read(person.id, &tap.data),
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
            Action::Cancel => self.show(person, place, Some(Note::Cancelled)).await,
            Action::Revoke(key_id) => {
                let hint = self.shown.hint(person.id, message, key_id);
                self.say(person, place, &View::Ask { key_id, hint }).await;
            }
            Action::Confirm(key_id) => self.confirm(person, place, key_id).await,
        }
    }

    fn menu(&self, person: Person, note: Option<Note>) -> View {
        View::Menu {
            account: self.accounts.of(person.id),
            note,
        }
    }

    /// Shows the key as it is now; but while the end of a Revoke is unclear, that comes first.
    async fn show(&self, person: Person, place: Place, note: Option<Note>) {
        if let Some(key_id) = self.confirmed.unclear(person.id) {
            return self.revoke(person, place, key_id).await;
        }
        if let Err(wait) = self.limits.reveals.take(person.id, Instant::now()) {
            self.metrics.limited("reveals");
            return self.say(person, place, &View::LimitedReveals(wait)).await;
        }
        self.present(person, place, note).await;
    }

    async fn present(&self, person: Person, place: Place, note: Option<Note>) {
        let account = self.accounts.of(person.id);
        let answer = self.authority.present(&account).await;
        let view = match flow::present(&account, answer) {
            Ok(present) => View::Key(note, present),
            Err(trouble) => View::Trouble(note, trouble),
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
            Err(_) => tokio::join!(self.put(person, place, &View::Revoking), revoking),
        };
        let account = self.accounts.of(person.id);
        let revoked = flow::revoked(&account, answer);
        self.metrics.revoke(outcome(&revoked));
        let end = match revoked {
            Revoked::Unclear { .. } => End::Unclear,
            Revoked::Replaced(..) | Revoked::See(_) => End::Clear,
        };
        self.confirmed.set(person.id, key_id, end);
        // Taken out first: the message in `place` is about to show something else.
        let others = self.shown.take_of_key(person.id, key_id);
        let others = others.into_iter().filter(|other| Some(other.id) != place);
        let hidden: fn(String, Option<Note>) -> View = |hint, note| match note {
            Some(Note::Replaced(time) | Note::Already(time)) => View::Dead(hint, time),
            Some(_) => View::Gone(hint),
            None => View::Hidden(hint),
        };
        let note = match revoked {
            Revoked::Replaced(time, present) => {
                let note = Some(Note::Replaced(time));
                self.say(person, place, &View::Key(note.clone(), present))
                    .await;
                note
            }
            Revoked::See(note) => {
                self.present(person, place, Some(note.clone())).await;
                Some(note)
            }
            Revoked::Unclear { committed } => {
                self.say(person, place, &View::Unclear { key_id, committed })
                    .await;
                None
            }
        };
        for other in others {
            let view = hidden(other.key.hint.clone(), note.clone());
            self.replace(other, &view, "revoked").await;
        }
    }

    /// Hides the messages of a user whose time has come.
    pub async fn hide_due(&self, user: u64) {
        for message in self.shown.take_due(user, Instant::now()) {
            let view = View::Hidden(message.key.hint.clone());
            self.replace(message, &view, "time").await;
        }
    }

    /// Hides every message that is known to show a key.
    pub async fn hide_all(&self) {
        const AT_ONCE: usize = 8;
        let hiding = self.shown.take_all().into_iter().map(|message| async {
            let view = View::Hidden(message.key.hint.clone());
            self.replace(message, &view, "stop").await;
        });
        let hiding: Vec<_> = hiding.collect();
        futures_util::StreamExt::for_each_concurrent(
            futures_util::stream::iter(hiding),
            AT_ONCE,
            |one| one,
        )
        .await;
    }

    /// Puts a view without a key in the place of a message that showed one.
    async fn replace(&self, message: shown::Message, view: &View, cause: &'static str) {
        let screen = self.screens.render(message.language, view);
        match self.telegram.edit(message.user, message.id, &screen).await {
            Ok(()) => self.metrics.hidden(cause),
            // There is nothing to hide, or nobody to hide it from.
            Err(Failure::Gone | Failure::Blocked) => {}
            Err(failure) => {
                tracing::warn!(%failure, "a key could not be hidden yet");
                self.shown.put_back(message, Instant::now());
            }
        }
        self.count_shown();
    }

    async fn say(&self, person: Person, place: Place, view: &View) {
        self.put(person, place, view).await;
    }

    /// Shows a view in `place`, or in a new message if there is none; gives where it is.
    async fn put(&self, person: Person, place: Place, view: &View) -> Place {
        let screen = self.screens.render(person.language, view);
        if let Some(message) = place {
            // Before the edit: it may come through without an answer.
            self.note(person, message, &screen);
            match self.telegram.edit(person.id, message, &screen).await {
                Ok(()) => return self.disclosed(&screen, message),
                Err(Failure::Gone) => drop(self.shown.remove(person.id, message)),
                failed => {
                    log_failure("editing a message", failed);
                    return place;
                }
            }
        }
        match self.telegram.send(person.id, &screen).await {
            Ok(message) => {
                self.note(person, message, &screen);
                self.disclosed(&screen, message)
            }
            failed => {
                log_failure("sending a message", failed);
                None
            }
        }
    }

    fn disclosed(&self, screen: &Screen, message: i32) -> Place {
        if screen.discloses.is_some() {
            self.metrics.reveals.inc();
        }
        Some(message)
    }

    /// Remembers whether the message shows a key.
    fn note(&self, person: Person, message: i32, screen: &Screen) {
        let now = Instant::now();
        match &screen.discloses {
            Some(key) => self.shown.put(
                shown::Message {
                    user: person.id,
                    id: message,
                    key: key.clone(),
                    language: person.language,
                    hide_at: self.hide_after.map(|after| now + after),
                    attempts: 0,
                },
                now,
            ),
            None => drop(self.shown.remove(person.id, message)),
        }
        self.count_shown();
    }

    fn count_shown(&self) {
        let count = i64::try_from(self.shown.count()).unwrap_or(i64::MAX);
        self.metrics.showing.set(count);
    }

    async fn answer(&self, person: Person, tap: &Tap, text: Option<Id>) {
        let text = text.map(|id| self.screens.texts().plain(person.language, id));
        let answered = self.telegram.answer(&tap.query, text).await;
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

/// A user who has blocked the bot is no failure worth a line.
fn log_failure<T>(doing: &str, outcome: Result<T, Failure>) {
    match outcome {
        Ok(_) | Err(Failure::Blocked) => {}
        Err(failure) => tracing::warn!(%failure, "{doing} failed"),
    }
}

#[cfg(test)]
mod tests;

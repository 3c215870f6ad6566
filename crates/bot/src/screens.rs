//! Renders a view in a language: the text and the keyboard of a message. Pure, so the pictures in
//! the documentation show what users see.

use std::time::Duration;

use keyward_client::Secret;
use time::OffsetDateTime;

use crate::account::{Account, Link, NoAccount, Place};
use crate::answers::{CurrentKey, End, KeyName, Problem};
use crate::callback::{Action, Callback, Revocation};
use crate::flow::{Allowance, Note, Unclear, View};
use crate::i18n::{Id, Language, Texts, Value};
use crate::settings::Slot;

/// Telegram's limit for a button that copies, in characters.
const MAX_COPY: usize = 256;
const BACK: (Id, Action) = (Id::BUTTON_BACK, Action::Account);

/// What happens when a user presses a button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ButtonAction {
    /// The bot gets this.
    Callback(Callback),
    /// The Telegram client copies this text.
    Copy(Secret),
    /// The Telegram client opens this page.
    Page(String),
    /// The Telegram client opens the chat with the bot.
    OpenBot,
}

/// A button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Button {
    /// Its text.
    pub label: String,
    /// What it does.
    pub action: ButtonAction,
}

/// A message: a text with a keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// HTML for Telegram; may contain a key.
    pub text: Secret,
    /// The buttons, row by row.
    pub rows: Vec<Vec<Button>>,
}

/// Renders views in all languages.
#[derive(Default)]
pub struct Screens {
    /// The texts without their layout.
    pub texts: Texts,
    /// The slots of each account.
    pub slots: Vec<Slot>,
    /// The time after which a key is hidden; `None` if time does not hide it.
    pub hide_after: Option<Duration>,
    /// The grace that users may choose, in hours.
    pub revoke_grace: Option<u16>,
    /// The contact on screens that report a lasting problem.
    pub support: Option<String>,
}

impl Screens {
    /// The view of this place in a language.
    pub fn render(&self, language: Language, place: &Place, view: &View) -> Screen {
        let renderer = Renderer {
            screens: self,
            language,
            place,
        };
        let (mut paragraphs, rows) = renderer.parts(view);
        let slot = self.slots.iter().find(|slot| slot.name == place.slot);
        if let Some(title) = slot.and_then(|slot| slot.title(language)) {
            paragraphs.insert(0, format!("<b>{}</b>", escape(title)));
        }
        Screen {
            text: Secret::new(paragraphs.join("\n\n")),
            rows,
        }
    }
}

/// Paragraphs and rows of buttons.
type Parts = (Vec<String>, Vec<Vec<Button>>);

/// Renders views of one place in one language.
struct Renderer<'a> {
    screens: &'a Screens,
    language: Language,
    place: &'a Place,
}

impl Renderer<'_> {
    fn parts(&self, view: &View) -> Parts {
        let main_menu = || self.column([(Id::BUTTON_ACCOUNT, Action::Account)]);
        let show_again = || self.column([(Id::BUTTON_SHOW_AGAIN, Action::Key), BACK]);
        match view {
            View::Menu(account) => {
                let text = self.text(Id::MENU_TEXT, &[("account", escaped(&account.id))]);
                (vec![text], main_menu())
            }
            View::Account(note, account, user_id) => self.account(note.as_ref(), account, *user_id),
            View::NoAccount(reason, callback) => self.no_account(reason, *callback),
            View::Key(note, current) => self.key(note.as_ref(), current),
            View::ConfirmRevoke(note, key, time) => self.question(note.as_ref(), key, *time),
            View::Unclear(revocation, why) => {
                let text = |id| vec![self.plain(id)];
                let text = match why {
                    Unclear::Running => text(Id::REVOKING_TEXT),
                    Unclear::Unconfirmed => self.with_support(text(Id::UNCLEAR_UNCONFIRMED)),
                    Unclear::Unknown => self.with_support(text(Id::UNCLEAR_UNKNOWN)),
                    Unclear::Busy => self.with_support(text(Id::UNCLEAR_BUSY)),
                    Unclear::Fault => self.with_support(text(Id::UNCLEAR_FAULT)),
                };
                let retry = (Id::BUTTON_RETRY, Action::Retry(*revocation));
                (text, self.column([retry]))
            }
            View::Problem(note, problem) => self.problem(note.as_ref(), *problem),
            View::Limited(allowance, wait) => {
                let id = match allowance {
                    Allowance::Reveals => Id::LIMITED_REVEALS,
                    Allowance::Revokes => Id::LIMITED_REVOKES,
                };
                let minutes = Value::from(wait.as_secs().div_ceil(60).max(1));
                (vec![self.text(id, &[("minutes", minutes)])], show_again())
            }
            View::HiddenKey(note, hint) => {
                let mut text = self.note(note.as_ref());
                text.push(self.hint(Id::KEY_HIDDEN, hint));
                (text, show_again())
            }
            View::RevokedKey(hint, end) => {
                let text = match end {
                    Some(end) => self.ends(Id::KEY_DEAD, Id::KEY_DEAD_GRACE, *end, hint),
                    None => self.hint(Id::KEY_GONE, hint),
                };
                (vec![text], self.column([(Id::BUTTON_KEY, Action::Key)]))
            }
            View::Help => (vec![self.plain(Id::HELP_TEXT)], main_menu()),
            View::Failed => (vec![self.plain(Id::FAILED_TEXT)], main_menu()),
            View::Group => {
                let open = self.button(Id::BUTTON_OPEN, ButtonAction::OpenBot);
                (vec![self.plain(Id::GROUP_TEXT)], vec![vec![open]])
            }
        }
    }

    fn account(&self, note: Option<&Note>, account: &Account, user_id: u64) -> Parts {
        let user = escaped(&user_id.to_string());
        let values = [("account", escaped(&account.id)), ("user", user)];
        let mut text = self.note(note);
        text.push(self.text(Id::ACCOUNT_TEXT, &values));
        let lines = account.lines.iter().map(|line| {
            let (label, value) = (escape(&line.label), escape(&line.value));
            match line.copyable {
                true => format!("{label}: <code>{value}</code>"),
                false => format!("{label}: {value}"),
            }
        });
        text.extend((!account.lines.is_empty()).then(|| lines.collect::<Vec<_>>().join("\n")));
        let keys = self.screens.slots.iter().map(|slot| {
            let place = Place {
                account: account.id.clone(),
                slot: slot.name.clone(),
            };
            let label = match slot.title(self.language) {
                Some(title) => format!("🔑 {title}"),
                None => self.plain(Id::BUTTON_KEY),
            };
            let (action, tag) = (Action::Key, Some(place.tag()));
            let action = ButtonAction::Callback(Callback { action, tag });
            vec![Button { label, action }]
        });
        let back = self.column([(Id::BUTTON_BACK, Action::Menu)]);
        let rows = keys.chain(pages(&account.links)).chain(back);
        (text, rows.collect())
    }

    fn no_account(&self, reason: &NoAccount, callback: Callback) -> Parts {
        let retry = self.button(Id::BUTTON_RETRY, ButtonAction::Callback(callback));
        let retry = [vec![retry]].into_iter();
        match reason {
            NoAccount::NotRegistered(links) => {
                let text = vec![self.plain(Id::NOT_REGISTERED)];
                (text, pages(links).chain(retry).collect())
            }
            NoAccount::Unknown => {
                let text = vec![self.plain(Id::ACCOUNT_UNKNOWN)];
                (self.with_support(text), retry.collect())
            }
        }
    }

    fn question(&self, note: Option<&Note>, key: &KeyName, time: u32) -> Parts {
        let confirm = |grace| {
            let key_id = key.key_id;
            Action::Confirm(Revocation { key_id, grace }, time)
        };
        let buttons = [
            (Id::BUTTON_CONFIRM, confirm(0)),
            (Id::BUTTON_CANCEL, Action::Cancel(key.key_id)),
        ];
        let mut rows = vec![self.row(buttons)];
        let mut text = self.note(note);
        text.push(self.plain(Id::ASK_TEXT));
        if let Some(grace) = self.screens.revoke_grace {
            let hours = [("hours", Value::from(grace))];
            text.push(self.text(Id::ASK_GRACE, &hours));
            let action = ButtonAction::Callback(self.callback(confirm(grace)));
            let label = self.text(Id::BUTTON_GRACE, &hours);
            rows.insert(1, vec![Button { label, action }]);
        }
        let hint = self.hint(Id::ASK_HINT, &key.hint);
        let lines = [Some(hint), self.last_use(key, time)];
        text.push(lines.into_iter().flatten().collect::<Vec<_>>().join("\n"));
        (text, rows)
    }

    /// How long before `time` the key was used last, as far as it is known. It may have been used since it
    /// was shown, so a key without a known use is not called unused.
    fn last_use(&self, key: &KeyName, time: u32) -> Option<String> {
        let seconds = time.saturating_sub(key.last_use?);
        // The time of the last use is written with a delay of a minute.
        let (id, name, number) = match seconds / 60 {
            ..2 => return Some(self.plain(Id::ASK_USED_NOW)),
            minutes @ 2..60 => (Id::ASK_USED_MINUTES, "minutes", minutes),
            minutes @ 60..2_880 => (Id::ASK_USED_HOURS, "hours", minutes / 60),
            minutes => (Id::ASK_USED_DAYS, "days", minutes / 1_440),
        };
        Some(self.text(id, &[(name, Value::from(number))]))
    }

    fn key(&self, note: Option<&Note>, current: &CurrentKey) -> Parts {
        let mut text = self.note(note);
        // The other notes say already which key follows.
        if let (
            Some(Note::Already(_) | Note::Expired | Note::UnknownKey | Note::Changed),
            Some(note),
        ) = (note, text.last_mut())
        {
            note.push('\n');
            note.push_str(&self.plain(Id::NOTE_CURRENT));
        }
        if let Some(time) = current.key().old_key_tried {
            let time = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(time.into());
            text.push(self.text(Id::OLD_KEY_TRIED, &[("time", utc(time))]));
        }
        let revoke = |key: &KeyName| {
            let revoke = (Id::BUTTON_REVOKE, Action::Revoke(key.key_id));
            self.row([revoke, BACK])
        };
        match current {
            CurrentKey::Visible { key, api_key, once } => {
                let (title, shown) = (self.plain(Id::KEY_TITLE), escape(api_key.expose()));
                text.push(format!("{title}\n<code>{shown}</code>"));
                text.push(self.plain(Id::KEY_WARNING));
                text.extend(once.then(|| self.plain(Id::KEY_ONCE)));
                text.extend(self.screens.hide_after.map(|after| self.hides(after)));
                let copy = (api_key.expose().chars().count() <= MAX_COPY)
                    .then(|| self.button(Id::BUTTON_COPY, ButtonAction::Copy(api_key.clone())));
                let copy = copy.map(|button| vec![button]);
                (text, copy.into_iter().chain([revoke(key)]).collect())
            }
            CurrentKey::Unrecoverable(key) => {
                text.push(self.hint(Id::KEY_NOT_SHOWN, &key.hint));
                (text, vec![revoke(key)])
            }
            CurrentKey::Disabled(key) => {
                text.push(self.hint(Id::KEY_DISABLED, &key.hint));
                (self.with_support(text), self.column([BACK]))
            }
        }
    }

    fn problem(&self, note: Option<&Note>, problem: Problem) -> Parts {
        let mut text = self.note(note);
        text.push(self.plain(match (problem, note) {
            (Problem::Fault, _) => Id::FAULT_TEXT,
            (Problem::Busy, _) => Id::BUSY_TEXT,
            (Problem::Unavailable, None) => Id::UNAVAILABLE_TEXT,
            (Problem::Unavailable, Some(_)) => Id::PRESENT_UNAVAILABLE,
        }));
        let buttons = [(Id::BUTTON_RETRY, Action::Key), BACK];
        (self.with_support(text), self.column(buttons))
    }

    fn note(&self, note: Option<&Note>) -> Vec<String> {
        let note = note.map(|note| match note {
            Note::Replaced(end) => self.ends(Id::NOTE_REPLACED, Id::NOTE_REPLACED_GRACE, *end, ""),
            Note::Already(end) => self.ends(Id::NOTE_ALREADY, Id::NOTE_ALREADY_GRACE, *end, ""),
            Note::Expired => self.plain(Id::NOTE_EXPIRED),
            Note::UnknownKey => self.plain(Id::NOTE_UNKNOWN_KEY),
            Note::Cancelled => self.plain(Id::NOTE_CANCELLED),
            Note::Changed => self.plain(Id::NOTE_CHANGED),
            Note::Late => self.plain(Id::NOTE_LATE),
            Note::OldButton => self.plain(Id::NOTE_OLD_BUTTON),
            Note::OtherPlace => self.plain(Id::NOTE_OTHER_PLACE),
        });
        note.into_iter().collect()
    }

    fn hides(&self, after: Duration) -> String {
        let (id, name, number) = match after.as_secs() {
            seconds @ 0..120 => (Id::KEY_HIDES_SECONDS, "seconds", seconds),
            seconds => (Id::KEY_HIDES_MINUTES, "minutes", seconds.div_ceil(60)),
        };
        self.text(id, &[(name, Value::from(number))])
    }

    fn with_support(&self, mut text: Vec<String>) -> Vec<String> {
        let contact = self.screens.support.as_deref().map(escaped);
        text.extend(contact.map(|contact| self.text(Id::SUPPORT_TEXT, &[("contact", contact)])));
        text
    }

    fn plain(&self, id: Id) -> String {
        self.text(id, &[])
    }

    fn hint(&self, id: Id, hint: &str) -> String {
        self.text(id, &[("hint", escaped(hint))])
    }

    /// The text about the end of a key: one that has passed, or the end of a grace.
    fn ends(&self, past: Id, grace: Id, end: End, hint: &str) -> String {
        let id = if end.is_past { past } else { grace };
        self.text(id, &[("time", utc(end.time)), ("hint", escaped(hint))])
    }

    fn text(&self, id: Id, values: &[(&str, Value)]) -> String {
        self.screens.texts.get(self.language, id, values)
    }

    fn button(&self, id: Id, action: ButtonAction) -> Button {
        let label = self.plain(id);
        Button { label, action }
    }

    fn row<const N: usize>(&self, buttons: [(Id, Action); N]) -> Vec<Button> {
        let callback = |action| ButtonAction::Callback(self.callback(action));
        buttons
            .map(|(id, action)| self.button(id, callback(action)))
            .into()
    }

    fn callback(&self, action: Action) -> Callback {
        let is_about_slot = !matches!(action, Action::Menu | Action::Account);
        let tag = is_about_slot.then(|| self.place.tag());
        Callback { action, tag }
    }

    fn column<const N: usize>(&self, buttons: [(Id, Action); N]) -> Vec<Vec<Button>> {
        buttons.map(|button| self.row([button])).into()
    }
}

fn pages(links: &[Link]) -> impl Iterator<Item = Vec<Button>> {
    links.iter().map(|link| {
        let (label, action) = (link.text.clone(), ButtonAction::Page(link.url.clone()));
        vec![Button { label, action }]
    })
}

/// With seconds, in UTC, which the text says.
fn utc(time: OffsetDateTime) -> Value {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = time.to_hms();
    let date = time.date();
    Value::from(format!("{date} {hour:02}:{minute:02}:{second:02} UTC"))
}

fn escaped(text: &str) -> Value {
    Value::from(escape(text))
}

/// Escapes text for Telegram's HTML, also inside quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
pub(crate) mod tests;

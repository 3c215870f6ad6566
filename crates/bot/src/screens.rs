//! Texts and keyboards: a view in a language. Pure, so that the pictures in the documentation are
//! made from what users see.

use std::fmt;
use std::time::Duration;

use keyward_client::Secret;
use serde::Serialize;
use time::OffsetDateTime;

use crate::callback::Action;
use crate::flow::{Named, Note, Present, Trouble, View};
use crate::i18n::{Id, Language, Texts, Value};

/// Telegram's limit for a button that copies.
const MAX_COPY: usize = 256;

/// What a press of a button does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Press {
    /// The bot does something.
    Do(Action),
    /// The client copies this.
    Copy(Secret),
    /// The client opens the chat with the bot.
    OpenBot,
}

/// A button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Button {
    /// What stands on it.
    pub label: String,
    /// What it does.
    pub press: Press,
}

/// A message: text with a keyboard.
#[derive(Clone, PartialEq, Eq)]
pub struct Screen {
    /// HTML as Telegram takes it; may hold a key.
    pub text: Secret,
    /// The buttons, row by row.
    pub rows: Vec<Vec<Button>>,
    /// The key that the text discloses.
    pub discloses: Option<Named>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen")
            .field("discloses", &self.discloses)
            .finish_non_exhaustive()
    }
}

/// Makes screens of views.
pub struct Screens {
    texts: Texts,
    hide_after: Option<Duration>,
    support: Option<String>,
}

impl Screens {
    /// `hide_after`: when a key is hidden again, which the user is told. `support`: whom to ask
    /// when something stays broken, put in as text.
    pub fn new(hide_after: Option<Duration>, support: Option<&str>) -> Self {
        Self {
            texts: Texts::new(),
            hide_after,
            support: support.map(escape),
        }
    }

    /// The messages themselves.
    pub const fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The view in a language.
    pub fn render(&self, language: Language, view: &View) -> Screen {
        let say = Say {
            screens: self,
            language,
        };
        let (text, rows) = match view {
            View::Menu { account, note } => say.menu(account, note.as_ref()),
            View::Account { account, user_id } => say.account(account, *user_id),
            View::Key(note, present) => say.key(note.as_ref(), present),
            View::Ask(key) => say.ask(key),
            View::Revoking { key_id } => (say.plain(Id::REVOKING_TEXT), say.retry(*key_id)),
            View::Unclear { key_id, committed } => {
                let id = match committed {
                    true => Id::UNCLEAR_UNCONFIRMED,
                    false => Id::UNCLEAR_UNKNOWN,
                };
                (say.with_support(vec![say.plain(id)]), say.retry(*key_id))
            }
            View::Trouble(note, trouble) => say.trouble(note.as_ref(), *trouble),
            View::LimitedReveals(wait) => (say.limited(Id::LIMITED_REVEALS, *wait), say.again()),
            View::LimitedRevokes(wait) => (say.limited(Id::LIMITED_REVOKES, *wait), say.again()),
            View::Hidden(note, hint) => say.hidden(note.as_ref(), hint),
            View::Dead(hint, time) => (say.dead(hint, *time), say.to_present()),
            View::Gone(hint) => (say.hinted(Id::KEY_GONE, hint), say.to_present()),
            View::Help => (say.plain(Id::HELP_TEXT), say.main()),
            View::Failed => (say.plain(Id::FAILED_TEXT), say.main()),
            View::Group => say.group(),
        };
        let discloses = match view {
            View::Key(_, Present::Shown { key, .. }) => Some(key.clone()),
            _ => None,
        };
        Screen {
            text: Secret::new(text),
            rows,
            discloses,
        }
    }
}

type Parts = (String, Vec<Vec<Button>>);

/// The screens in one language.
struct Say<'a> {
    screens: &'a Screens,
    language: Language,
}

impl Say<'_> {
    fn plain(&self, id: Id) -> String {
        self.screens.texts.plain(self.language, id)
    }

    fn get(&self, id: Id, name: &str, value: Value) -> String {
        self.screens.texts.get(self.language, id, &[(name, value)])
    }

    fn hinted(&self, id: Id, hint: &str) -> String {
        self.get(id, "hint", Value::Text(escape(hint)))
    }

    fn button(&self, id: Id, action: Action) -> Button {
        Button {
            label: self.plain(id),
            press: Press::Do(action),
        }
    }

    fn main(&self) -> Vec<Vec<Button>> {
        vec![vec![self.button(Id::BUTTON_ACCOUNT, Action::Account)]]
    }

    fn back(&self) -> Button {
        self.button(Id::BUTTON_BACK, Action::Account)
    }

    fn again(&self) -> Vec<Vec<Button>> {
        let again = self.button(Id::BUTTON_SHOW_AGAIN, Action::Key);
        vec![vec![again], vec![self.back()]]
    }

    /// The same Revoke again.
    fn retry(&self, key_id: uuid::Uuid) -> Vec<Vec<Button>> {
        vec![vec![self.button(Id::BUTTON_RETRY, Action::Confirm(key_id))]]
    }

    fn hidden(&self, note: Option<&Note>, hint: &str) -> Parts {
        let note = note.map(|note| self.note(note));
        let text = self.hinted(Id::KEY_HIDDEN, hint);
        (paragraphs(note, [text]), self.again())
    }

    fn to_present(&self) -> Vec<Vec<Button>> {
        vec![vec![self.button(Id::BUTTON_KEY, Action::Key)]]
    }

    fn menu(&self, account: &str, note: Option<&Note>) -> Parts {
        let text = self.get(Id::MENU_TEXT, "account", Value::Text(escape(account)));
        (
            paragraphs(note.map(|note| self.note(note)), [text]),
            self.main(),
        )
    }

    fn account(&self, account: &str, user_id: u64) -> Parts {
        let values = [
            ("account", Value::Text(escape(account))),
            ("user", Value::Text(user_id.to_string())),
        ];
        let text = self
            .screens
            .texts
            .get(self.language, Id::ACCOUNT_TEXT, &values);
        let key = self.button(Id::BUTTON_KEY, Action::Key);
        let back = self.button(Id::BUTTON_BACK, Action::Menu);
        (text, vec![vec![key], vec![back]])
    }

    fn key(&self, note: Option<&Note>, present: &Present) -> Parts {
        let note = note.map(|note| self.note(note));
        let revoke = |key: &Named| self.button(Id::BUTTON_REVOKE, Action::Revoke(key.key_id));
        match present {
            Present::Shown { key, api_key, once } => {
                let title = self.plain(Id::KEY_TITLE);
                let mut text = vec![format!(
                    "{title}\n<code>{}</code>",
                    escape(api_key.expose())
                )];
                text.push(self.plain(Id::KEY_WARNING));
                text.extend(once.then(|| self.plain(Id::KEY_ONCE)));
                text.extend(self.screens.hide_after.map(|after| self.hides(after)));
                let copy = (api_key.expose().chars().count() <= MAX_COPY).then(|| Button {
                    label: self.plain(Id::BUTTON_COPY),
                    press: Press::Copy(api_key.clone()),
                });
                let mut rows: Vec<_> = copy.into_iter().map(|copy| vec![copy]).collect();
                rows.push(vec![revoke(key), self.back()]);
                (paragraphs(note, text), rows)
            }
            Present::NotShown(key) => {
                let text = self.hinted(Id::KEY_NOT_SHOWN, &key.hint);
                let rows = vec![vec![revoke(key), self.back()]];
                (paragraphs(note, [text]), rows)
            }
            Present::Disabled(key) => {
                let text = self.hinted(Id::KEY_DISABLED, &key.hint);
                let text = self.with_support(note.into_iter().chain([text]).collect());
                (text, vec![vec![self.back()]])
            }
        }
    }

    fn ask(&self, key: &Named) -> Parts {
        let text = [
            self.plain(Id::ASK_TEXT),
            self.hinted(Id::ASK_HINT, &key.hint),
        ];
        let confirm = self.button(Id::BUTTON_CONFIRM, Action::Confirm(key.key_id));
        let cancel = self.button(Id::BUTTON_CANCEL, Action::Cancel(key.key_id));
        (paragraphs(None, text), vec![vec![confirm, cancel]])
    }

    fn trouble(&self, note: Option<&Note>, trouble: Trouble) -> Parts {
        let id = match (trouble, note) {
            (Trouble::Fault, _) => Id::FAULT_TEXT,
            (Trouble::Unavailable, None | Some(Note::Cancelled)) => Id::UNAVAILABLE_TEXT,
            (Trouble::Unavailable, Some(_)) => Id::PRESENT_UNAVAILABLE,
        };
        let note = note.map(|note| self.note(note));
        let text = self.with_support(note.into_iter().chain([self.plain(id)]).collect());
        let retry = self.button(Id::BUTTON_RETRY, Action::Key);
        (text, vec![vec![retry], vec![self.back()]])
    }

    fn group(&self) -> Parts {
        let open = Button {
            label: self.plain(Id::BUTTON_OPEN),
            press: Press::OpenBot,
        };
        (self.plain(Id::GROUP_TEXT), vec![vec![open]])
    }

    fn note(&self, note: &Note) -> String {
        match note {
            Note::Replaced(time) => self.timed(Id::NOTE_REPLACED, *time),
            Note::Already(time) => self.timed(Id::NOTE_ALREADY, *time),
            Note::Expired => self.plain(Id::NOTE_EXPIRED),
            Note::UnknownKey => self.plain(Id::NOTE_UNKNOWN_KEY),
            Note::Cancelled => self.plain(Id::NOTE_CANCELLED),
            Note::Changed => self.plain(Id::NOTE_CHANGED),
            Note::OldButton => self.plain(Id::NOTE_OLD_BUTTON),
        }
    }

    fn timed(&self, id: Id, time: OffsetDateTime) -> String {
        self.get(id, "time", Value::Text(utc(time)))
    }

    fn dead(&self, hint: &str, time: OffsetDateTime) -> String {
        let values = [
            ("hint", Value::Text(escape(hint))),
            ("time", Value::Text(utc(time))),
        ];
        self.screens.texts.get(self.language, Id::KEY_DEAD, &values)
    }

    fn hides(&self, after: Duration) -> String {
        match after.as_secs() {
            seconds @ 0..120 => self.get(Id::KEY_HIDES_SECONDS, "seconds", Value::Number(seconds)),
            seconds => self.get(
                Id::KEY_HIDES_MINUTES,
                "minutes",
                Value::Number(seconds / 60),
            ),
        }
    }

    fn limited(&self, id: Id, wait: Duration) -> String {
        let minutes = wait.as_secs().div_ceil(60).max(1);
        self.get(id, "minutes", Value::Number(minutes))
    }

    fn with_support(&self, mut text: Vec<String>) -> String {
        let contact = self.screens.support.clone();
        text.extend(contact.map(|to| self.get(Id::SUPPORT_TEXT, "contact", Value::Text(to))));
        paragraphs(None, text)
    }
}

fn paragraphs(first: Option<String>, rest: impl IntoIterator<Item = String>) -> String {
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    all.join("\n\n")
}

/// To the second, in UTC, which it says.
fn utc(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}

/// For Telegram's HTML, also within quotes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A screen as documentation shows it.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// The code of the language.
    pub language: &'static str,
    /// Which screen.
    pub screen: &'static str,
    /// The text as Telegram's HTML.
    pub text: String,
    /// What stands on the buttons, row by row.
    pub buttons: Vec<Vec<String>>,
}

/// Every screen in every language, with invented data.
pub fn pictures(screens: &Screens) -> Vec<Picture> {
    let views = crate::samples::views();
    let in_language = |language: Language| {
        views.iter().map(move |(name, view)| {
            let screen = screens.render(language, view);
            Picture {
                language: language.code(),
                screen: name,
                text: screen.text.expose().to_owned(),
                buttons: labels(screen.rows),
            }
        })
    };
    Language::ALL.into_iter().flat_map(in_language).collect()
}

fn labels(rows: Vec<Vec<Button>>) -> Vec<Vec<String>> {
    let of_row = |row: Vec<Button>| row.into_iter().map(|button| button.label).collect();
    rows.into_iter().map(of_row).collect()
}

#[cfg(test)]
mod tests;

//! Renders a view in a language: the text and the keyboard of a message. Pure, so the pictures in
//! the documentation show what users see.

use std::time::Duration;

use keyward_client::Secret;
use serde::Serialize;
use time::OffsetDateTime;

use crate::callback::Action;
use crate::flow::{Allowance, CurrentKey, KeyName, Note, Problem, View};
use crate::i18n::{Id, Language, Texts, Value};

/// Telegram's limit for a button that copies, in characters.
const MAX_COPY: usize = 256;
const BACK: (Id, Action) = (Id::BUTTON_BACK, Action::Account);

/// What happens when a user presses a button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ButtonAction {
    /// The bot gets this action.
    Callback(Action),
    /// The Telegram client copies this text.
    Copy(Secret),
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
pub struct Screens {
    texts: Texts,
    hide_after: Option<Duration>,
    support: Option<String>,
}

impl Screens {
    /// `hide_after` is the time after which a key is hidden. `support` is the contact on screens
    /// that report a lasting problem.
    pub fn new(hide_after: Option<Duration>, support: Option<&str>) -> Self {
        Self {
            texts: Texts::default(),
            hide_after,
            support: support.map(str::to_owned),
        }
    }

    /// The texts without their layout.
    pub const fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The time after which a key is hidden; `None` if time does not hide it.
    pub const fn hide_after(&self) -> Option<Duration> {
        self.hide_after
    }

    /// The view in a language.
    pub fn render(&self, language: Language, view: &View) -> Screen {
        let renderer = Renderer {
            screens: self,
            language,
        };
        let (paragraphs, rows) = renderer.parts(view);
        Screen {
            text: Secret::new(paragraphs.join("\n\n")),
            rows,
        }
    }
}

/// Paragraphs and rows of buttons.
type Parts = (Vec<String>, Vec<Vec<Button>>);

/// Renders views in one language.
struct Renderer<'a> {
    screens: &'a Screens,
    language: Language,
}

impl Renderer<'_> {
    fn parts(&self, view: &View) -> Parts {
        let main_menu = || self.column([(Id::BUTTON_ACCOUNT, Action::Account)]);
        let open_key = || self.column([(Id::BUTTON_KEY, Action::Key)]);
        let show_again = || self.column([(Id::BUTTON_SHOW_AGAIN, Action::Key), BACK]);
        let retry = |key_id| self.column([(Id::BUTTON_RETRY, Action::Retry(key_id))]);
        match view {
            View::Menu { account, note } => {
                let mut text = self.note(note.as_ref());
                text.push(self.text(Id::MENU_TEXT, &[("account", escaped(account))]));
                (text, main_menu())
            }
            View::Account { account, user_id } => {
                let user = escaped(&user_id.to_string());
                let values = [("account", escaped(account)), ("user", user)];
                let buttons = [
                    (Id::BUTTON_KEY, Action::Key),
                    (Id::BUTTON_BACK, Action::Menu),
                ];
                let text = self.text(Id::ACCOUNT_TEXT, &values);
                (vec![text], self.column(buttons))
            }
            View::Key(note, current) => self.key(note.as_ref(), current),
            View::ConfirmRevoke(note, key, time) => {
                let mut text = self.note(note.as_ref());
                text.extend([self.plain(Id::ASK_TEXT), self.hint(Id::ASK_HINT, &key.hint)]);
                let buttons = [
                    (Id::BUTTON_CONFIRM, Action::Confirm(key.key_id, *time)),
                    (Id::BUTTON_CANCEL, Action::Cancel(key.key_id)),
                ];
                (text, vec![self.row(buttons)])
            }
            View::Revoking { key_id } => (vec![self.plain(Id::REVOKING_TEXT)], retry(*key_id)),
            View::Unclear { key_id, committed } => {
                let id = match committed {
                    true => Id::UNCLEAR_UNCONFIRMED,
                    false => Id::UNCLEAR_UNKNOWN,
                };
                (self.with_support(vec![self.plain(id)]), retry(*key_id))
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
            View::RevokedKey(hint, time) => {
                let values = [("hint", escaped(hint)), ("time", utc(*time))];
                (vec![self.text(Id::KEY_DEAD, &values)], open_key())
            }
            View::OldKey(hint) => (vec![self.hint(Id::KEY_GONE, hint)], open_key()),
            View::Help => (vec![self.plain(Id::HELP_TEXT)], main_menu()),
            View::Failed => (vec![self.plain(Id::FAILED_TEXT)], main_menu()),
            View::Group => {
                let open = self.button(Id::BUTTON_OPEN, ButtonAction::OpenBot);
                (vec![self.plain(Id::GROUP_TEXT)], vec![vec![open]])
            }
        }
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
            (Problem::Unavailable, None) => Id::UNAVAILABLE_TEXT,
            (Problem::Unavailable, Some(_)) => Id::PRESENT_UNAVAILABLE,
        }));
        let buttons = [(Id::BUTTON_RETRY, Action::Key), BACK];
        (self.with_support(text), self.column(buttons))
    }

    fn note(&self, note: Option<&Note>) -> Vec<String> {
        let note = note.map(|note| match note {
            Note::Replaced(time) => self.text(Id::NOTE_REPLACED, &[("time", utc(*time))]),
            Note::Already(time) => self.text(Id::NOTE_ALREADY, &[("time", utc(*time))]),
            Note::Expired => self.plain(Id::NOTE_EXPIRED),
            Note::UnknownKey => self.plain(Id::NOTE_UNKNOWN_KEY),
            Note::Cancelled => self.plain(Id::NOTE_CANCELLED),
            Note::Changed => self.plain(Id::NOTE_CHANGED),
            Note::Late => self.plain(Id::NOTE_LATE),
            Note::OldButton => self.plain(Id::NOTE_OLD_BUTTON),
        });
        note.into_iter().collect()
    }

    fn hides(&self, after: Duration) -> String {
        let (id, name, number) = match after.as_secs() {
            seconds @ 0..120 => (Id::KEY_HIDES_SECONDS, "seconds", seconds),
            seconds => (Id::KEY_HIDES_MINUTES, "minutes", seconds / 60),
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

    fn text(&self, id: Id, values: &[(&str, Value)]) -> String {
        self.screens.texts.get(self.language, id, values)
    }

    fn button(&self, id: Id, action: ButtonAction) -> Button {
        let label = self.plain(id);
        Button { label, action }
    }

    fn row<const N: usize>(&self, buttons: [(Id, Action); N]) -> Vec<Button> {
        let button = |(id, action)| self.button(id, ButtonAction::Callback(action));
        buttons.map(button).into()
    }

    fn column<const N: usize>(&self, buttons: [(Id, Action); N]) -> Vec<Vec<Button>> {
        buttons.map(|button| self.row([button])).into()
    }
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

/// A screen for the documentation.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// The code of the language.
    pub language: &'static str,
    /// The name of the screen.
    pub screen: &'static str,
    /// The text as Telegram's HTML.
    pub text: String,
    /// The labels of the buttons, row by row.
    pub buttons: Vec<Vec<String>>,
}

/// Every screen in every language, with example data.
pub fn pictures(screens: &Screens) -> Vec<Picture> {
    let mut pictures = Vec::new();
    for language in Language::ALL {
        for (name, view) in crate::samples::views() {
            let screen = screens.render(language, &view);
            let labels = |row: Vec<Button>| row.into_iter().map(|button| button.label).collect();
            pictures.push(Picture {
                language: language.code(),
                screen: name,
                text: screen.text.expose().to_owned(),
                buttons: screen.rows.into_iter().map(labels).collect(),
            });
        }
    }
    pictures
}

#[cfg(test)]
mod tests;

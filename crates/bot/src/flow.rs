//! What the bot does for a request and what it shows, decided without I/O and without a language.
//!
//! Only the same Revoke resolves an unclear one. A button works only in the account for which it was
//! made, so that the bot shows no key of another account and revokes none.

use std::time::Duration;

use uuid::Uuid;

use crate::account::{Account, NoAccount, Place};
use crate::answers::{CurrentKey, End, KeyName, Problem};
use crate::callback::{Action, Callback, Revocation};
use crate::settings::Slot;

/// How long a question whether to revoke a key can be answered, in seconds. The time is in the data of
/// the button, because Telegram says of a tap neither when it was made nor when it was delivered.
const MAX_AGE: u32 = 300;

/// The sentence above the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The key on the screen is new; this is the end of the old one.
    Replaced(End),
    /// The key of the button was already revoked; this is its end.
    Already(End),
    /// The key of the button had expired.
    Expired,
    /// The key of the button does not exist.
    UnknownKey,
    /// The user pressed Cancel, and the key of the question is still the current key.
    Cancelled,
    /// The key of the button is not the current key of the account.
    Changed,
    /// The answer to the question came late.
    Late,
    /// Another version of the bot made the button.
    OldButton,
    /// The button is about an account or a slot that is no longer the user's.
    OtherPlace,
}

/// A limit that a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Keys shown.
    Reveals,
    /// Keys revoked.
    Revokes,
}

impl Allowance {
    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reveals => "reveals",
            Self::Revokes => "revokes",
        }
    }
}

/// Why the outcome of a Revoke is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It is running.
    Running,
    /// It is committed, but not proven to hold everywhere.
    Unconfirmed,
    /// There was no answer.
    Unknown,
    /// Keyward shows the bot no more keys at the moment, and so not the successor.
    Busy,
    /// Keyward refuses the bot.
    Fault,
}

/// A screen without its language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The main menu.
    Menu(Account),
    /// The account of the user with this Telegram id. The note says why the user did not get what the
    /// button was for.
    Account(Option<Note>, Account, u64),
    /// The account is not known. The callback repeats what the user wanted.
    NoAccount(NoAccount, Callback),
    /// The current key.
    Key(Option<Note>, CurrentKey),
    /// The question whether to revoke this key, asked at this time, in seconds since 1970.
    ConfirmRevoke(Option<Note>, KeyName, u32),
    /// The outcome of this Revoke is not known.
    Unclear(Revocation, Unclear),
    /// The current key cannot be shown.
    Problem(Option<Note>, Problem),
    /// The allowance is used up; there is more after this time.
    Limited(Allowance, Duration),
    /// The hint of a key that this message has shown, or should show.
    HiddenKey(Option<Note>, String),
    /// The hint of a revoked key, with its end; without one, of a key that expired or does not exist.
    RevokedKey(String, Option<End>),
    /// What the bot does.
    Help,
    /// The bot has failed.
    Failed,
    /// The answer in a group: use the private chat.
    Group,
}

impl View {
    /// The current key, or why it cannot be shown.
    pub fn current(note: Option<Note>, current: Result<CurrentKey, Problem>) -> Self {
        match current {
            Ok(current) => Self::Key(note, current),
            Err(problem) => Self::Problem(note, problem),
        }
    }

    /// The key whose text the view discloses.
    pub const fn discloses(&self) -> Option<&KeyName> {
        match self {
            Self::Key(_, CurrentKey::Visible { key, .. }) => Some(key),
            _ => None,
        }
    }

    /// The same view without the key text; `None` if it discloses no key.
    pub fn without_key(&self) -> Option<Self> {
        match self {
            Self::Key(note, CurrentKey::Visible { key, .. }) => {
                Some(Self::HiddenKey(note.clone(), key.hint.clone()))
            }
            _ => None,
        }
    }
}

/// What this process knows about a user before it calls Keyward.
#[derive(Clone, Debug)]
pub struct Context {
    /// The account of the user.
    pub account: Account,
    /// The Telegram id.
    pub user_id: u64,
    /// The last confirmed revocations in the place, oldest first, and whether each is unclear.
    pub outcomes: Vec<(Revocation, bool)>,
    /// The key that the message with the button shows.
    pub shown: Option<KeyName>,
    /// In seconds since 1970.
    pub now: u32,
}

/// The first step of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave the message as it is.
    Ignore,
    /// Show this view.
    Show(View),
    /// Get the current key and show it. With a key id, the user has pressed Cancel on the question
    /// whether to revoke that key.
    Open(Option<Uuid>),
    /// Get the current key, and ask whether to revoke it if it is this key. The note says why.
    Ask(Option<Note>, Uuid),
    /// Revoke this key, after taking one from the allowance.
    Revoke(Revocation, Option<Allowance>),
}

impl Step {
    /// What the step counts against. Getting the key counts even if the user does not see it: Keyward
    /// limits how many keys it shows to the bot, so one user must not use up what is there for all.
    pub const fn allowance(&self) -> Option<Allowance> {
        match self {
            Self::Ignore | Self::Show(_) => None,
            Self::Open(_) | Self::Ask(..) => Some(Allowance::Reveals),
            Self::Revoke(_, allowance) => *allowance,
        }
    }
}

/// What a callback wants, and in which place; `None` if that is not one of this account. A callback
/// without a tag is about the first slot. If it names a key, that is right only where accounts never
/// change.
pub fn target(
    callback: Callback,
    account: &str,
    slots: &[Slot],
    accounts_change: bool,
) -> Option<(Action, Place)> {
    let mut places = slots.iter().map(|slot| Place {
        account: account.to_owned(),
        slot: slot.name.clone(),
    });
    let action = callback.action;
    let place = match (action, callback.tag) {
        (Action::Menu | Action::Account, _) => return Some((action, Place::default())),
        // Of several slots, the user chooses one.
        (Action::Key, None) if slots.len() > 1 => return Some((Action::Account, Place::default())),
        (_, Some(tag)) => places.find(|place| place.tag() == tag),
        (Action::Key, None) => places.next(),
        (_, None) => places.next().filter(|_| !accounts_change),
    };
    place.map(|place| (action, place))
}

/// Decides the first step of a request in a place of the account.
pub fn first_step(action: Action, context: &Context) -> Step {
    let mut outcomes = context.outcomes.iter();
    let unclear = outcomes.find(|(_, is_unclear)| *is_unclear);
    match (action, unclear) {
        (Action::Menu, _) => Step::Show(View::Menu(context.account.clone())),
        (Action::Account, _) => {
            let account = context.account.clone();
            Step::Show(View::Account(None, account, context.user_id))
        }
        (Action::Confirm(revocation, asked), _) => confirmed(revocation, Some(asked), context),
        (Action::Retry(revocation), _) => confirmed(revocation, None, context),
        // No key is shown while a Revoke is unclear, so the same Revoke comes first.
        (_, Some((unclear, _))) => Step::Revoke(*unclear, None),
        (Action::Key, None) => Step::Open(None),
        (Action::Cancel(key_id), None) => Step::Open(Some(key_id)),
        // This process has shown the key in this message, and has not seen a Revoke of it since.
        (Action::Revoke(key_id), None) => match &context.shown {
            Some(key) if key.key_id == key_id => {
                Step::Show(View::ConfirmRevoke(None, key.clone(), context.now))
            }
            _ => Step::Ask(None, key_id),
        },
    }
}

/// Only the first Revoke of a key counts against the revocations. A repeated one shows the
/// successor again, which is a reveal; while the outcome is unclear, it is free. A first one needs an
/// answer soon after the question: Telegram keeps a tap for a day while it cannot deliver it, and the
/// user has long gone on by then. A Retry has no such limit, because its Revoke was confirmed in time.
/// A Revoke with a shorter grace than the confirmed one is another one: it ends the key earlier.
fn confirmed(revocation: Revocation, asked: Option<u32>, context: &Context) -> Step {
    let key_id = revocation.key_id;
    let mut outcomes = context.outcomes.iter();
    let shows_other = matches!(&context.shown, Some(key) if key.key_id != key_id);
    let known = outcomes.find(|(known, _)| known.key_id == key_id);
    let repeats = |known: &Revocation| revocation.grace >= known.grace;
    match known {
        // A second tap: the message already shows the successor.
        Some((_, false)) if shows_other => Step::Ignore,
        Some((known, true)) if repeats(known) => Step::Revoke(revocation, None),
        Some((known, false)) if repeats(known) => {
            Step::Revoke(revocation, Some(Allowance::Reveals))
        }
        _ if asked.is_some_and(|asked| context.now.abs_diff(asked) > MAX_AGE) => {
            Step::Ask(Some(Note::Late), key_id)
        }
        _ => Step::Revoke(revocation, Some(Allowance::Revokes)),
    }
}

/// The view after `Step::Open`.
pub fn opened(cancelled: Option<Uuid>, current: Result<CurrentKey, Problem>) -> View {
    let note = match (cancelled, &current) {
        (Some(key_id), Ok(current)) if current.key().key_id == key_id => Some(Note::Cancelled),
        (Some(_), Ok(_)) => Some(Note::Changed),
        _ => None,
    };
    View::current(note, current)
}

/// The view after `Step::Ask`.
pub fn asked(
    note: Option<Note>,
    key_id: Uuid,
    current: Result<CurrentKey, Problem>,
    now: u32,
) -> View {
    match current {
        // A successor would be disabled, too.
        Ok(current @ CurrentKey::Disabled(_)) if current.key().key_id == key_id => {
            View::Key(None, current)
        }
        Ok(current) if current.key().key_id == key_id => {
            View::ConfirmRevoke(note, current.key().clone(), now)
        }
        Ok(current) => View::Key(Some(Note::Changed), current),
        Err(problem) => View::Problem(None, problem),
    }
}

#[cfg(test)]
pub(crate) mod tests;

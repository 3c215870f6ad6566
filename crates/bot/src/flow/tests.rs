//! The first step of each request.

use keyward_client::Secret;

use super::*;

pub(crate) const OLD: Uuid = Uuid::from_u128(1);
pub(crate) const NEW: Uuid = Uuid::from_u128(2);
const NOW: u32 = 1_800_000_000;

pub(crate) fn name(key_id: Uuid) -> KeyName {
    KeyName {
        key_id,
        hint: "kw_abcd".to_owned(),
        ..KeyName::default()
    }
}

pub(crate) fn visible(key_id: Uuid, once: bool) -> CurrentKey {
    CurrentKey::Visible {
        key: name(key_id),
        api_key: Secret::new("kw_canary".to_owned()),
        once,
    }
}

fn of(key_id: Uuid, grace: u16) -> Revocation {
    Revocation { key_id, grace }
}

#[test]
fn a_button_works_only_in_its_account_and_slot() {
    let both = ["live", "test"].map(|name| Slot::named(name).unwrap());
    let at = |account: &str, slot: &str| {
        let (account, slot) = (account.to_owned(), slot.to_owned());
        Place { account, slot }
    };
    let nowhere = Place::default;
    let (test, live) = (Some(at("a", "test").tag()), Some(at("a", "live").tag()));
    let (key, cancel) = (Action::Key, Action::Cancel(OLD));
    for (action, tag, account, slots, change, expected) in [
        (
            key,
            None,
            "a",
            &both[..1],
            true,
            Some((key, at("a", "live"))),
        ),
        (
            key,
            None,
            "a",
            &both,
            true,
            Some((Action::Account, nowhere())),
        ),
        (key, test, "a", &both, true, Some((key, at("a", "test")))),
        (key, test, "b", &both, true, None),
        (
            cancel,
            test,
            "a",
            &both,
            true,
            Some((cancel, at("a", "test"))),
        ),
        (
            cancel,
            live,
            "a",
            &both,
            true,
            Some((cancel, at("a", "live"))),
        ),
        (cancel, test, "b", &both, false, None),
        (cancel, test, "a", &both[..1], false, None),
        // A button of the old version, from before there were slots.
        (
            cancel,
            None,
            "a",
            &both,
            false,
            Some((cancel, at("a", "live"))),
        ),
        (cancel, None, "a", &both, true, None),
        (
            Action::Menu,
            None,
            "a",
            &both,
            true,
            Some((Action::Menu, nowhere())),
        ),
    ] {
        let found = target(Callback { action, tag }, account, slots, change);
        assert_eq!(found, expected, "{action:?} {account}");
    }
}

#[test]
fn the_view_after_cancel_says_whether_the_key_is_still_the_current_one() {
    let note = |cancelled, current| match opened(cancelled, current) {
        View::Key(note, _) | View::Problem(note, _) => note,
        view => panic!("{view:?}"),
    };
    let current = || Ok(visible(NEW, false));
    assert_eq!(note(Some(NEW), current()), Some(Note::Cancelled));
    assert_eq!(note(Some(OLD), current()), Some(Note::Changed));
    assert_eq!(note(None, current()), None);
    assert_eq!(note(Some(NEW), Err(Problem::Unavailable)), None);
}

#[test]
fn only_the_current_key_can_be_revoked() {
    let current = || Ok(visible(NEW, false));
    let disabled = || CurrentKey::Disabled(name(NEW));
    let late = || Some(Note::Late);
    let changed = View::Key(Some(Note::Changed), visible(NEW, false));
    let problem = View::Problem(None, Problem::Fault);
    for (key_id, current, expected) in [
        (NEW, current(), View::ConfirmRevoke(late(), name(NEW), NOW)),
        (OLD, current(), changed),
        (NEW, Ok(disabled()), View::Key(None, disabled())),
        (OLD, Err(Problem::Fault), problem),
    ] {
        assert_eq!(asked(late(), key_id, current, NOW), expected);
    }
}

#[test]
fn the_first_step_follows_from_what_is_known() {
    let (clear, unclear) = ((of(OLD, 5), false), (of(OLD, 5), true));
    let first = || Step::Revoke(of(OLD, 5), Some(Allowance::Revokes));
    let late = || Step::Ask(Some(Note::Late), OLD);
    let ask = Step::Show(View::ConfirmRevoke(None, name(OLD), NOW));
    for (action, outcomes, shown, expected) in [
        (Action::Key, vec![], None, Step::Open(None)),
        (Action::Key, vec![clear], None, Step::Open(None)),
        (Action::Cancel(OLD), vec![], None, Step::Open(Some(OLD))),
        (Action::Revoke(OLD), vec![], None, Step::Ask(None, OLD)),
        (Action::Revoke(OLD), vec![], Some(NEW), Step::Ask(None, OLD)),
        (Action::Revoke(OLD), vec![], Some(OLD), ask),
        // No key is shown while a Revoke is unclear.
        (
            Action::Key,
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Cancel(NEW),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Revoke(NEW),
            vec![unclear],
            Some(NEW),
            Step::Revoke(of(OLD, 5), None),
        ),
        // The first Revoke of a key counts, a repeated one is a reveal or free.
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![],
            Some(OLD),
            Step::Revoke(of(OLD, 5), Some(Allowance::Revokes)),
        ),
        (
            Action::Confirm(of(NEW, 5), NOW),
            vec![unclear],
            None,
            Step::Revoke(of(NEW, 5), Some(Allowance::Revokes)),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![unclear],
            Some(NEW),
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![clear],
            None,
            Step::Revoke(of(OLD, 5), Some(Allowance::Reveals)),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![clear],
            Some(NEW),
            Step::Ignore,
        ),
        // A late first answer is no consent. A Retry follows one that was in time.
        (
            Action::Confirm(of(OLD, 5), NOW - MAX_AGE),
            vec![],
            None,
            first(),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW - MAX_AGE - 1),
            vec![],
            None,
            late(),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW + MAX_AGE + 1),
            vec![],
            Some(OLD),
            late(),
        ),
        (
            Action::Confirm(of(OLD, 5), 0),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        // One that ends the key earlier than the confirmed one is another one.
        (
            Action::Confirm(of(OLD, 0), NOW - MAX_AGE - 1),
            vec![clear],
            None,
            late(),
        ),
        (
            Action::Confirm(of(OLD, 0), NOW - MAX_AGE - 1),
            vec![unclear],
            None,
            late(),
        ),
        (
            Action::Confirm(of(OLD, 0), NOW),
            vec![clear],
            None,
            Step::Revoke(of(OLD, 0), Some(Allowance::Revokes)),
        ),
        (
            Action::Confirm(of(OLD, 6), 0),
            vec![clear],
            None,
            Step::Revoke(of(OLD, 6), Some(Allowance::Reveals)),
        ),
        (
            Action::Confirm(of(OLD, 0), NOW),
            vec![clear],
            Some(NEW),
            Step::Ignore,
        ),
        (Action::Retry(of(OLD, 5)), vec![], None, first()),
        (
            Action::Retry(of(OLD, 5)),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
    ] {
        let context = Context {
            account: Account::default(),
            user_id: 42,
            outcomes,
            shown: shown.map(name),
            now: NOW,
        };
        assert_eq!(
            first_step(action, &context),
            expected,
            "{action:?} {context:?}"
        );
    }
}

#[test]
fn a_view_without_its_key_discloses_no_key() {
    for (name, view) in crate::screens::tests::samples::views() {
        let keyless = view.without_key();
        assert!(
            keyless.is_none_or(|view| matches!(view, View::HiddenKey(..))),
            "{name}"
        );
        assert_eq!(
            view.without_key().is_some(),
            view.discloses().is_some(),
            "{name}"
        );
    }
}

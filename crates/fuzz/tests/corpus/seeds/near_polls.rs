//! The seeds of the polls of near-caches.

use keyward_fuzz::near_polls::{Extra, Known, Number, Step, poll, step};

use super::Seeds;

const OPEN: [u8; 3] = [Step::Open as u8, 0, 0];
const CHANGE: [u8; 3] = [Step::Change as u8, 0, 0];
const REVOKE_TOKEN: [u8; 3] = [Step::RevokeToken as u8, 0, 0];

/// A poll in order that acknowledges the last response.
fn following(stream: u8) -> [u8; 3] {
    poll(
        Step::Poll,
        stream,
        Number::Next,
        Known::Response,
        Extra::Plain,
    )
}

fn knowing(known: Known) -> [u8; 3] {
    poll(Step::Poll, 0, Number::Next, known, Extra::Plain)
}

fn numbered(number: Number) -> [u8; 3] {
    poll(Step::Poll, 0, number, Known::Response, Extra::Plain)
}

fn with(extra: Extra) -> [u8; 3] {
    poll(Step::Poll, 0, Number::Next, Known::Response, extra)
}

/// Steps of a stream that has polled twice.
fn fresh<const N: usize>(steps: [[u8; 3]; N]) -> Vec<u8> {
    let first = [OPEN, following(0), following(0)];
    [first.as_flattened(), steps.as_flattened()].concat()
}

pub(crate) fn near_polls() -> Seeds {
    let (first, second) = (following(0), following(1));
    let above = poll(Step::Poll, 1, Number::Next, Known::Highest, Extra::Plain);
    let (drop, other) = (step(Step::Drop, 0, 0, 0), step(Step::Drop, 1, 0, 0));
    let raw = [&step(Step::Raw, 0, 7, 0)[..], &[0, 0, 0, 0, 2, 8, 9]].concat();
    let again = [OPEN, first, step(Step::Drop, 0, 0, 0)];
    let callers = [step(Step::Open, 0, 1, 0), step(Step::Open, 0, 2, 0)];
    let early = poll(Step::Early, 0, Number::Next, Known::Response, Extra::Plain);
    [
        (
            "follows",
            fresh([CHANGE, first, first, CHANGE, first, first]),
        ),
        ("silent", fresh([CHANGE, CHANGE])),
        (
            "two",
            fresh([OPEN, second, second, CHANGE, second, first, second]),
        ),
        ("off", fresh([CHANGE, first, with(Extra::Off), CHANGE])),
        ("same-number", fresh([CHANGE, numbered(Number::Same)])),
        ("number-zero", fresh([numbered(Number::Zero), CHANGE])),
        ("highest-number", fresh([numbered(Number::Highest), first])),
        (
            "below",
            fresh([CHANGE, first, knowing(Known::Below), CHANGE]),
        ),
        (
            "above",
            fresh([knowing(Known::Above), CHANGE, first, first]),
        ),
        (
            "highest",
            fresh([knowing(Known::Highest), CHANGE, first, CHANGE]),
        ),
        ("nothing", fresh([CHANGE, knowing(Known::Nothing)])),
        ("zero", fresh([CHANGE, first, knowing(Known::Zero)])),
        ("elsewhere", fresh([CHANGE, knowing(Known::Elsewhere)])),
        (
            "highest-elsewhere",
            [OPEN, knowing(Known::HighestElsewhere), CHANGE, first].concat(),
        ),
        ("used", fresh([with(Extra::Used), with(Extra::ShortId)])),
        ("many-used", fresh([with(Extra::ManyUsed)])),
        ("unknown-fields", fresh([with(Extra::Unknown), first])),
        ("large", fresh([CHANGE, with(Extra::Large)])),
        ("early", fresh([early, early, CHANGE, first])),
        (
            "token",
            fresh([REVOKE_TOKEN, first, first, with(Extra::Off)]),
        ),
        (
            "silent-token",
            fresh([REVOKE_TOKEN, step(Step::Drop, 0, 0, 0)]),
        ),
        (
            "two-drop",
            fresh([OPEN, second, above, drop, other, CHANGE]),
        ),
        (
            "early-off",
            fresh([early, with(Extra::Off), CHANGE, CHANGE]),
        ),
        ("drop", fresh([drop, CHANGE])),
        ("finish", fresh([step(Step::Finish, 0, 0, 0), CHANGE])),
        (
            "again",
            [again, again, again, again].as_flattened().concat(),
        ),
        ("callers", callers.concat()),
        ("raw", [fresh([CHANGE]), raw, first.to_vec()].concat()),
    ]
    .into()
}

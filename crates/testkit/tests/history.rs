//! The checker finds every violation of the promise, accepts everything that it allows, and refuses
//! an unreadable history: as a library and as a program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Counts, Fault, Recorder, Violation, check};

/// A key whose end is requested at 10 and that is promised dead from 20 on.
const LIFE: &str = r#"{"event":"issued","key":"k","at":1}
{"event":"dying","key":"k","at":10}
{"event":"dead","key":"k","at":20}
"#;

fn verify(key: &str, began: u64, ended: u64, verdict: Option<&str>) -> String {
    let verdict = verdict.map_or("null".to_owned(), |verdict| format!("\"{verdict}\""));
    format!(
        "{{\"event\":\"verify\",\"key\":\"{key}\",\"instance\":2,\"began\":{began},\
         \"ended\":{ended},\"verdict\":{verdict}}}\n"
    )
}

/// The output and the exit code of the program. The library must agree.
fn judge(history: &str) -> (Vec<Violation>, String, i32) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    std::fs::write(&path, history).unwrap();
    let (text, status) = run(&path);
    let report = check(&path).unwrap();
    assert_eq!(status, i32::from(!report.violations.is_empty()), "{text}");
    assert!(text.starts_with(&report.to_string()), "{text}");
    for violation in &report.violations {
        assert!(text.contains(&violation.to_string()), "{text}");
    }
    (report.violations, text, status)
}

fn run(path: &Path) -> (String, i32) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_check-history"));
    let output = program.arg(path).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        String::from_utf8(text).unwrap(),
        output.status.code().unwrap(),
    )
}

fn faults(began: u64, ended: u64, verdict: Option<&str>) -> Vec<Fault> {
    let history = LIFE.to_owned() + &verify("k", began, ended, verdict);
    let (violations, _, _) = judge(&history);
    violations
        .into_iter()
        .map(|violation| violation.fault)
        .collect()
}

#[test]
fn a_planted_violation_among_thousands_is_found() {
    let mut history = LIFE.to_owned();
    for n in 0..5_000 {
        history += &verify("k", n % 20, n % 20 + 100, Some("VALID"));
        history += &verify("k", 21 + n, 22 + n, Some("REVOKED"));
    }
    let (violations, text, _) = judge(&history);
    assert!(violations.is_empty(), "{violations:?}");
    assert!(
        text.starts_with("VALID after death: 0 of 5000 verifies"),
        "{text}"
    );
    let end = history.len() / 2;
    let at = history[..end].rfind('\n').unwrap() + 1;
    history.insert_str(at, &verify("k", 23, 24, Some("VALID")));
    let (violations, text, status) = judge(&history);
    let planted = Violation {
        key: "k".to_owned(),
        instance: 2,
        began: 23,
        fault: Fault::ValidAfterDeath { late: 3 },
    };
    assert_eq!((violations.as_slice(), status), ([planted].as_slice(), 1));
    assert!(
        text.starts_with("VALID after death: 1 of 5001 verifies"),
        "{text}"
    );
}

#[test]
fn allowed_answers_pass() {
    assert_eq!(faults(2, 3, Some("VALID")), [], "it lives");
    assert_eq!(
        faults(19, 90, Some("VALID")),
        [],
        "the call began before the end"
    );
    assert_eq!(
        faults(20, 90, Some("VALID")),
        [],
        "at the same time is not after"
    );
    assert_eq!(
        faults(2, 11, Some("REVOKED")),
        [],
        "it was dying when the answer came"
    );
    assert_eq!(faults(21, 22, Some("REVOKED")), [], "it is dead");
    assert_eq!(faults(21, 22, Some("NOT_FOUND")), [], "it may be deleted");
    assert_eq!(faults(2, 3, None), [], "UNAVAILABLE is no verdict");
    assert_eq!(faults(21, 22, None), [], "UNAVAILABLE is no verdict");
}

#[test]
fn forbidden_answers_are_found() {
    assert_eq!(
        faults(21, 22, Some("VALID")),
        [Fault::ValidAfterDeath { late: 1 }]
    );
    for verdict in [
        "REVOKED",
        "NOT_FOUND",
        "DISABLED",
        "MALFORMED",
        "EXPIRED",
        "UNSPECIFIED",
    ] {
        let verdict = verdict.to_owned();
        let found = faults(2, 9, Some(&verdict));
        assert_eq!(found, [Fault::LiveKeyCalledDead { verdict }]);
    }
    let never_ended = r#"{"event":"issued","key":"k","at":1}"#.to_owned() + "\n";
    let (violations, _, _) = judge(&(never_ended + &verify("k", 2, 3, Some("NOT_FOUND"))));
    assert_eq!(violations.len(), 1, "its end was not requested");
}

#[test]
fn the_order_of_the_lines_does_not_matter() {
    let early = verify("k", 21, 22, Some("VALID")) + &verify("k", 2, 3, Some("VALID"));
    let (violations, _, _) = judge(&(early + LIFE));
    assert_eq!(violations.len(), 1);
}

/// An unconfirmed call promises nothing: the key may be dead or not.
#[test]
fn a_dying_key_may_get_any_verdict() {
    let mut history = LIFE.lines().take(2).fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    });
    for verdict in [Some("VALID"), Some("REVOKED"), None] {
        history += &verify("k", 50, 60, verdict);
    }
    assert!(judge(&history).0.is_empty());
}

#[test]
fn the_earliest_promise_counts() {
    let again = r#"{"event":"dead","key":"k","at":40}"#.to_owned() + "\n";
    let (violations, _, _) =
        judge(&(LIFE.to_owned() + &again + &verify("k", 30, 31, Some("VALID"))));
    assert_eq!(violations.len(), 1);
}

#[test]
fn an_unreadable_history_does_not_pass() {
    let fine = LIFE.to_owned() + &verify("k", 2, 3, Some("VALID"));
    judge(&fine);
    let unreadable = [
        ("", "no verify"),
        (LIFE, "no verify"),
        (&fine[..fine.len() - 4], "EOF"),
        (&format!("{fine}\n"), "EOF"),
        (
            &format!("{fine}{{\"event\":\"born\",\"key\":\"k\",\"at\":1}}\n"),
            "born",
        ),
        (&fine.replace(r#","verdict":"VALID""#, ""), "verdict"),
        (&fine.replace(r#""at":10"#, r#""at":-10"#), "-10"),
        (&fine.replace("\"VALID\"", "\"GOOD\""), "GOOD is no verdict"),
        (
            &(fine.clone() + &verify("other", 2, 3, None)),
            "the key other was never issued",
        ),
        (&(fine.clone() + LIFE), "a key is issued twice"),
        (
            &fine.replace("dying", "dead"),
            "without a request to end it",
        ),
        (
            &(fine.clone() + &verify("k", 3, 2, None)),
            "ended before it began",
        ),
    ];
    for (history, reason) in unreadable {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        std::fs::write(&path, history).unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}: {reason}");
        assert_eq!(run(&path), (error + "\n", 2));
    }
    let nowhere = Path::new("no-such-file");
    assert!(check(nowhere).is_err());
    assert_eq!(run(nowhere).1, 2);
    let no_argument = Command::new(env!("CARGO_BIN_EXE_check-history"))
        .output()
        .unwrap();
    assert_eq!(no_argument.status.code(), Some(2));
}

#[test]
fn recorded_events_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(&directory.path().join("history.jsonl"));
    recorder.issued("k");
    let look = |instance, verdict| {
        recorder.verify("k", instance, recorder.now(), verdict);
    };
    look(0, Some(Verdict::Valid));
    look(1, None);
    recorder.dying("k");
    look(1, Some(Verdict::Revoked));
    recorder.dead("k", Duration::from_millis(2));
    look(0, Some(Verdict::Valid));
    std::thread::sleep(Duration::from_millis(10));
    let writers: Vec<_> = (0..4)
        .map(|instance| {
            let recorder = recorder.clone();
            std::thread::spawn(move || {
                for _ in 0..100 {
                    recorder.verify("k", instance, recorder.now(), Some(Verdict::Revoked));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    look(3, Some(Verdict::Valid));
    let report = check(recorder.finish()).unwrap();
    assert_eq!(
        (report.keys, report.dead, report.total.verifies),
        (1, 1, 405)
    );
    let counts = Counts {
        verifies: 102,
        unavailable: 0,
        valid: 2,
        after_death: 100,
    };
    assert_eq!(report.instances[&0], counts);
    assert_eq!(report.instances[&1].unavailable, 1);
    assert_eq!(report.valid_after_death(), 1);
    assert_eq!(report.violations[0].instance, 3);
}

//! The verbs `import` and `export`: files of either format, what goes wrong in them, and commands and
//! services that are killed in the middle.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Child, Stdio};

use keyward_testkit::{PATIENCE, Process, eventually, http_ask, uuid_v4};
use serde_json::Value;

use super::ID;
use super::harness::{Outcome, Service, text};
use crate::BINARY;

const FORMATS: &[(&str, &str)] = &[("KEYWARD_FOREIGN_FORMATS", "uuid")];

/// The numbers of the summary: lines, imported, already there, duplicates, bad.
#[track_caller]
fn counts(outcome: &Outcome) -> [u64; 5] {
    let json: Value =
        serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    ["lines", "imported", "already_there", "duplicates", "bad"]
        .map(|name| json[name].as_u64().unwrap())
}

/// The accounts of all keys.
fn exported(service: &Service) -> Vec<String> {
    let lines = service.call(&["export", "--include-revoked"], "").done();
    let key = |line| serde_json::from_str::<Value>(line).unwrap();
    lines
        .lines()
        .map(|line| text(&key(line)["account_id"]))
        .collect()
}

/// A CSV file with new keys, each in an account of its own.
fn new_keys(many: usize) -> String {
    let mut file = "account_id,api_key\n".to_owned();
    for n in 0..many {
        writeln!(file, "account-{n},{}", uuid_v4()).unwrap();
    }
    file
}

#[tokio::test]
async fn a_file_is_imported_and_undone() {
    let service = Service::start_with(FORMATS);
    let texts: Vec<_> = (0..6).map(|_| uuid_v4()).collect();
    let [a, b, c, d, e, f] = &texts[..] else {
        unreachable!()
    };
    let csv = format!(
        "\u{feff}account_id,name,api_key,scopes,metadata,expire_time,allowed_cidrs,create_time,recoverable\r\n\
         1,\"bot\",{a},read write,\"{{\"\"team\"\":\"\"x\"\"}}\",2090-01-01T00:00:00Z,10.0.0.0/8,2020-01-01T00:00:00Z,true\r\n\
         2,,{b},,,,,,\r\n\
         3,,{a},,,,,,\r\n\
         4,a b,{c},,,,,,\r\n\
         5,,{c},,\"{{\"\"a\"\":NaN}}\",,,,\r\n"
    );
    let file = service.directory.path().join("keys.csv");
    std::fs::write(&file, csv).unwrap();
    let path = file.to_str().unwrap();

    let dry = service.json_of(&["import", path, "--dry-run"], "");
    assert_eq!((dry.code, counts(&dry)), (1, [5, 2, 0, 1, 2]), "{dry:?}");
    assert_eq!(exported(&service), [""; 0]);

    let outcome = service.json_of(&["import", path], "");
    assert_eq!((outcome.code, counts(&outcome)), (1, [5, 2, 0, 1, 2]));
    let summary: Value = serde_json::from_str(&outcome.out).unwrap();
    let batch = text(&summary["batch_id"]);
    let lines: Vec<_> = outcome.err.lines().collect();
    assert!(
        lines[0].starts_with(&format!("import {batch}; to undo it: ")),
        "{lines:?}"
    );
    assert_eq!(lines[1], "line 4: has the key of line 2");
    assert!(lines[2].starts_with("line 5: name: "), "{lines:?}");
    assert_eq!(lines[3], "line 6: metadata: must be a JSON object of texts");
    assert!(
        texts
            .iter()
            .all(|text| !outcome.err.contains(text) && !outcome.out.contains(text))
    );

    let verdict = |text: &str| {
        let outcome = service.json_of(&["verify", "-"], text);
        serde_json::from_str::<Value>(&outcome.out).unwrap()["verdict"].clone()
    };
    assert_eq!(
        (verdict(a), verdict(b)),
        ("IP_NOT_ALLOWED".into(), "VALID".into())
    );
    assert_eq!(verdict(c), "NOT_FOUND");

    // JSON lines from stdin, with a digest and a report.
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(d))
    };
    let jsonl = format!(
        "{{\"account_id\":\"6\",\"digest\":\"{digest}\",\"digest_scheme\":\"sha256\"}}\n\n\
         {{\"account_id\":\"7\",\"api_key\":\"{b}\"}}\n\
         {{\"account_id\":\"8\",\"api_key\":\"{e}\",\"digest\":\"{digest}\"}}\n\
         {{\"account_id\":\"9\",\"key\":\"{f}\"}}\n{{\n"
    );
    let report = service.directory.path().join("report.jsonl");
    let arguments = [
        "import",
        "-",
        "--batch",
        ID,
        "--report",
        report.to_str().unwrap(),
    ];
    let outcome = service.json_of(&arguments, &jsonl);
    assert_eq!(
        (outcome.code, counts(&outcome)),
        (1, [5, 1, 1, 0, 3]),
        "{outcome:?}"
    );
    assert!(!outcome.err.contains("line "), "{outcome:?}");
    let report = std::fs::read_to_string(report).unwrap();
    let told: Vec<Value> = report
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|line| format!("{} {}", line["line"], text(&line["outcome"])))
        .collect();
    assert_eq!(
        told,
        ["1 IMPORTED", "3 ALREADY_THERE", "4 BAD", "5 BAD", "6 BAD"]
    );
    assert!(texts.iter().all(|text| !report.contains(text)));
    assert_eq!(verdict(d), "VALID");

    let undone = service.json(
        "UndoImportResponse",
        &["import", "undo", ID, "--reason", "wrong"],
        "",
    );
    assert_eq!(undone["revoked_count"], 1);
    let status = http_ask(service.process.http, "GET", "/status.json", &[], "").await;
    let status: Value = serde_json::from_str(&status.unwrap().body).unwrap();
    assert_eq!(status["revokes"][0]["count"], 1, "{status}");
    assert_eq!((verdict(d), verdict(b)), ("REVOKED".into(), "VALID".into()));
    let undone = service.call(&["import", "undo", ID], "");
    assert!(
        undone.err.contains("no key of this import was alive"),
        "{undone:?}"
    );
    let again = service.json_of(&["import", path, "--batch", &batch], "");
    assert_eq!(counts(&again), [5, 0, 2, 1, 2]);

    let export = service.call(&["export"], "").done();
    assert!(texts.iter().all(|text| !export.contains(text)) && !export.contains(&digest));
    assert_eq!(exported(&service), ["1", "2", "6"]);
    assert_eq!(export.lines().count(), 2);
}

#[test]
fn a_file_that_cannot_be_imported_is_refused() {
    let service = Service::start_with(FORMATS);
    for (input, message) in [
        ("", "the file is empty"),
        ("account_id,key\n", "unknown column, 'key'"),
        (&format!("42,{}\n", uuid_v4()), "its place 1 holds no name"),
    ] {
        let err = service.call(&["import", "-"], input).refused(1);
        assert!(err.contains(message), "{err}");
    }
    let err = service.call(&["import", "nowhere.csv"], "").refused(1);
    assert!(err.contains("nowhere.csv: No such file"), "{err}");
    let err = service
        .call(&["import", "-", "--batch", "x"], "")
        .refused(64);
    assert!(err.contains("BATCH_ID must be a UUID"), "{err}");
    let err = service.call(&["import"], "").refused(64);
    assert!(err.contains("<FILE|->"), "{err}");
    let mut file = new_keys(300);
    writeln!(file, "account-7,{}", uuid_v4()).unwrap();
    let outcome = service.json_of(&["import", "-", "--dry-run"], &file);
    assert_eq!(
        counts(&outcome),
        [301, 300, 0, 0, 1],
        "as an import would say"
    );
    assert!(
        outcome
            .err
            .contains("line 302: name: the slot has the key of line 9"),
        "{outcome:?}"
    );
    let open = format!("account_id,api_key\n1,\"{}\n", "x\n".repeat(200_000));
    let outcome = service.json_of(&["import", "-"], &open);
    assert_eq!(counts(&outcome), [1, 0, 0, 0, 1]);
}

/// Starts to import from stdin.
fn importing(service: &Service) -> Child {
    let mut command = service.command(&["import", "-", "--output", "json"]);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until the service has some keys.
async fn wait_for_keys(service: &Service) {
    eventually("keys are imported", PATIENCE, async || {
        !exported(service).is_empty()
    })
    .await;
}

fn ended(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_is_finished_by_the_next_without_doubles() {
    const KEYS: usize = 4_000;
    let service = Service::start_with(FORMATS);
    let file = new_keys(KEYS);
    let mut killed = importing(&service);
    let mut input = killed.stdin.take().unwrap();
    // The rest is still to come when it is killed.
    input.write_all(&file.as_bytes()[..file.len() / 2]).unwrap();
    wait_for_keys(&service).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(input);
    let outcome = service.json_of(&["import", "-"], &file);
    let [lines, imported, there, duplicates, bad] = counts(&outcome);
    assert_eq!(
        (outcome.code, lines, duplicates, bad),
        (0, 4_000, 0, 0),
        "{outcome:?}"
    );
    assert!(there > 0 && imported + there == lines, "{outcome:?}");
    let accounts = exported(&service);
    assert_eq!(accounts.len(), KEYS);
    assert_eq!(accounts.iter().collect::<BTreeSet<_>>().len(), KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlives_a_killed_service() {
    const KEYS: usize = 4_000;
    let mut service = Service::start_with(FORMATS);
    let file = new_keys(KEYS);
    let mut importing = importing(&service);
    let mut input = importing.stdin.take().unwrap();
    let (first, second) = file.as_bytes().split_at(file.len() / 2);
    input.write_all(first).unwrap();
    wait_for_keys(&service).await;
    service.process.kill();
    let data = service.directory.path().join("keyward-data");
    let mut command = Process::command_on(BINARY, &data, service.process.grpc);
    command.envs(FORMATS.iter().copied());
    service.process = Process::start(command, &data);
    // The command does not read further while its calls wait.
    input.write_all(second).unwrap();
    drop(input);
    let outcome = ended(importing);
    // Each key counts once, also one whose first call had no answer.
    assert_eq!(
        (outcome.code, counts(&outcome)),
        (0, [4_000, 4_000, 0, 0, 0]),
        "{outcome:?}"
    );
    assert_eq!(exported(&service).len(), KEYS);
}

//! No secret in any output: the log at trace level, errors, Debug output, metrics, the database,
//! and the CLI's stderr.

mod needles;

use std::fmt::Debug;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use keyward_proto::v1::{self, Consistency, Role, Verdict};
use keyward_testkit::requests::*;
use keyward_testkit::{Client, Process, Scheme, http_get, importing, uuid_v4, without_settings};
use needles::{Heap, Needles, files_of};
use tonic::{Response, Status};

use crate::{BINARY, fresh_directory};

/// Everything that came out of a run, and what must not be in it.
#[derive(Default)]
struct Run {
    needles: Needles,
    heaps: Vec<Heap>,
}

impl Run {
    fn shows(&mut self, name: &str, shown: &impl Debug) {
        let text = format!("{shown:?}\n{shown:#?}");
        self.heaps.push(Heap::new(name, text));
    }

    /// The answer to a call that should go well.
    fn answer<T: Debug>(&mut self, name: &str, result: Result<Response<T>, Status>) -> T {
        self.shows(name, &result);
        result.unwrap().into_inner()
    }

    /// The answer to a call that should not: its text, and its details as bytes.
    fn refusal<T: Debug>(&mut self, name: &str, result: Result<Response<T>, Status>) {
        self.shows(name, &result);
        let status = result.unwrap_err();
        self.heaps.push(Heap::new(name, status.message()));
        self.heaps.push(Heap::new(name, status.details()));
    }

    async fn issue(
        &mut self,
        client: &mut Client,
        account: &str,
        recoverable: bool,
    ) -> v1::IssueResponse {
        let request = v1::IssueRequest {
            account_id: account.to_owned(),
            recoverable: Some(recoverable),
            ..Default::default()
        };
        let answer = self.answer("Issue", client.keys.issue(request).await);
        self.needles.add_text("an issued key", &answer.api_key);
        answer
    }

    async fn verify(
        &mut self,
        client: &mut Client,
        key: &str,
        consistency: Consistency,
    ) -> Verdict {
        let request = v1::VerifyRequest {
            api_key: key.to_owned(),
            consistency: consistency.into(),
            ..Default::default()
        };
        self.shows("VerifyRequest", &request);
        let batch = v1::VerifyBatchRequest {
            requests: vec![request.clone(), request.clone()],
        };
        self.shows("VerifyBatchRequest", &batch);
        let answers = self.answer("VerifyBatch", client.keys.verify_batch(batch).await);
        let answer = self.answer("Verify", client.keys.verify(request).await);
        assert_eq!(answers.responses[1], answer);
        answer.verdict()
    }

    async fn revoke(
        &mut self,
        client: &mut Client,
        request: v1::RevokeRequest,
    ) -> v1::RevokeResponse {
        self.shows("RevokeRequest", &request);
        let answer = self.answer("Revoke", client.keys.revoke(request).await);
        if !answer.api_key.is_empty() {
            self.needles.add_text("a successor", &answer.api_key);
        }
        answer
    }

    /// All that a key goes through.
    async fn keys(&mut self, client: &mut Client) -> v1::IssueResponse {
        let once = self.issue(client, "1", false).await;
        let kept = self.issue(client, "2", true).await;
        for key in [&once.api_key, &kept.api_key] {
            for consistency in [Consistency::Default, Consistency::Strong] {
                assert_eq!(self.verify(client, key, consistency).await, Verdict::Valid);
            }
        }
        let shown = self.issue(client, "2", true).await;
        assert!(!shown.created && shown.api_key == kept.api_key, "a reveal");
        let id = kept.key.unwrap().key_id;
        let next = self.revoke(client, replacing(&id)).await;
        let again = self.revoke(client, replacing(&id)).await;
        assert_eq!(again.api_key, next.api_key, "a reveal");
        self.revoke(client, by_text(&next.api_key)).await;
        let verdict = self
            .verify(client, &next.api_key, Consistency::Default)
            .await;
        assert_eq!(verdict, Verdict::Revoked);
        let garbage = format!("{}x", once.api_key);
        let verdict = self.verify(client, &garbage, Consistency::Default).await;
        assert_eq!(verdict, Verdict::Malformed);
        once
    }

    /// Secrets in the wrong field: no error may repeat them.
    async fn mistakes(&mut self, client: &mut Client, key: &str) {
        self.refusal("Get", client.keys.get(getting(key)).await);
        let unknown = getting_by_text(&format!("{key}x"));
        self.shows("GetRequest", &unknown);
        self.refusal("Get", client.keys.get(unknown).await);
        self.refusal("Revoke", client.keys.revoke(by_id(key)).await);
        let replace = v1::RevokeRequest {
            replace: true,
            ..by_text(key)
        };
        self.refusal("Revoke", client.keys.revoke(replace).await);
        let both = v1::RevokeRequest {
            key_id: key.to_owned(),
            ..by_text(key)
        };
        self.refusal("Revoke", client.keys.revoke(both).await);
        let list = v1::ListRequest {
            account_id: "1".to_owned(),
            page_token: key.to_owned(),
            ..Default::default()
        };
        self.refusal("List", client.keys.list(list).await);
        let listed = v1::ListRequest {
            account_id: "1".to_owned(),
            ..Default::default()
        };
        let listed = self.answer("List", client.keys.list(listed).await);
        for id in [&listed.keys[0].key_id, key] {
            let update = v1::UpdateRequest {
                key: Some(v1::ApiKey {
                    key_id: id.to_owned(),
                    ..Default::default()
                }),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec![key.to_owned()],
                }),
            };
            self.refusal("Update", client.keys.update(update).await);
        }
        let verify = v1::VerifyRequest {
            api_key: key.to_owned(),
            client_ip: key.to_owned(),
            ..Default::default()
        };
        self.refusal("Verify", client.keys.verify(verify).await);
        let issue = v1::IssueRequest {
            account_id: "3".to_owned(),
            allowed_cidrs: vec![key.to_owned()],
            ..Default::default()
        };
        self.refusal("Issue", client.keys.issue(issue).await);
        let token = v1::RevokeTokenRequest {
            token_id: key.to_owned(),
        };
        self.refusal("RevokeToken", client.admin.revoke_token(token).await);
    }

    /// Keys of another product, by their text and by their digest, and mistakes with them.
    async fn imports(&mut self, client: &mut Client) {
        let (text, other) = (uuid_v4(), uuid_v4());
        self.needles.add_foreign(&text);
        self.needles.add_foreign(&other);
        let both = v1::ImportKey {
            api_key: text.clone(),
            ..Scheme::Sha256.key("7", &other)
        };
        let keys = [
            Scheme::Text.key("5", &text),
            Scheme::Sha256.key("6", &other),
            both,
            Scheme::Text.key("8", &format!("{text}x")),
        ];
        let request = importing(keys);
        self.shows("ImportKeysRequest", &request);
        let answer = self.answer("ImportKeys", client.admin.import_keys(request).await);
        assert_eq!((answer.imported, answer.bad), (2, 2));
        for text in [&text, &other] {
            let verdict = self.verify(client, text, Consistency::Default).await;
            assert_eq!(verdict, Verdict::Valid);
        }
        let export = v1::ExportKeysRequest::default();
        self.answer("ExportKeys", client.admin.export_keys(export).await);
        let wrong = v1::ImportKeysRequest {
            batch_id: text,
            keys: vec![v1::ImportKey::default(); 1_001],
            dry_run: false,
        };
        self.refusal("ImportKeys", client.admin.import_keys(wrong).await);
    }

    async fn tokens(&mut self, client: &mut Client, process: &Process, key: &str) {
        let request = v1::CreateTokenRequest {
            name: "bot".to_owned(),
            roles: vec![Role::Issuer.into()],
            ..Default::default()
        };
        let made = self.answer("CreateToken", client.admin.create_token(request).await);
        self.needles.add_text("a token", &made.token);
        let mut bot = Client::new(process.grpc, Some(&made.token)).await;
        let request = v1::VerifyRequest {
            api_key: made.token.clone(),
            ..Default::default()
        };
        self.refusal(
            "Verify without the role",
            bot.keys.verify(request.clone()).await,
        );
        self.answer("a token as a key", client.keys.verify(request).await);
        let id = made.caller_token.unwrap().token_id;
        let request = v1::RevokeTokenRequest { token_id: id };
        self.answer("RevokeToken", client.admin.revoke_token(request).await);
        for token in [&made.token, key, &format!("{}x", made.token)] {
            let mut nobody = Client::new(process.grpc, Some(token)).await;
            let request = v1::ListRequest {
                account_id: "1".to_owned(),
                ..Default::default()
            };
            self.refusal("no caller", nobody.keys.list(request).await);
        }
    }

    /// The CLI: stdout is the one place where a secret may be, stderr is not.
    fn cli(&mut self, data: &Path, process: &Process, arguments: &[&str], input: &str) -> String {
        let mut child = without_settings(BINARY)
            .args(arguments)
            .args([
                "--output",
                "json",
                "--endpoint",
                &format!("http://{}", process.grpc),
            ])
            .arg("--token-file")
            .arg(data.join("admin.token"))
            .env("RUST_LOG", "trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        self.heaps.push(Heap::new(
            format!("stderr of keyward {}", arguments[0]),
            output.stderr,
        ));
        String::from_utf8(output.stdout).unwrap()
    }

    fn commands(&mut self, data: &Path, process: &Process) {
        let issued = self.cli(data, process, &["issue", "--account", "9"], "");
        let issued: serde_json::Value = serde_json::from_str(&issued).unwrap();
        let key = issued["api_key"].as_str().unwrap().to_owned();
        self.needles.add_text("a key of the CLI", &key);
        let line = format!("{key}\n");
        let judged = self.cli(data, process, &["verify", "-"], &line);
        assert!(judged.contains("VALID"), "{judged}");
        self.cli(data, process, &["verify", &key], "");
        self.cli(data, process, &["get", "--key", "-"], &line);
        // In the wrong place.
        self.cli(data, process, &["get", &key], "");
        self.cli(data, process, &["revoke", &key], "");
        self.cli(data, process, &["update", &key, "--disable"], "");
        self.cli(data, process, &["token", "revoke", &key], "");
        self.cli(
            data,
            process,
            &["list", "--account", "9", "--page-token", &key],
            "",
        );
        self.cli(data, process, &["revoke", "--key", "-"], &line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_holds_a_secret() {
    let (_directory, data) = fresh_directory();
    let mut command = Process::command(BINARY, &data);
    command.env("RUST_LOG", "trace");
    command.env("KEYWARD_FOREIGN_FORMATS", "uuid");
    let mut process = Process::start(command, &data);
    let mut run = Run::default();
    run.needles.add_text("the first token", &process.token());
    for name in ["generation-1", "seal-1", "cache-1", "foreign-1", "audit-1"] {
        run.needles
            .add_keyring_file(&data.join("keyring").join(name));
    }

    let mut client = process.client().await;
    let live = run.keys(&mut client).await;
    run.mistakes(&mut client, &live.api_key).await;
    run.tokens(&mut client, &process, &live.api_key).await;
    run.imports(&mut client).await;
    run.commands(&data, &process);
    for path in ["/metrics", "/readyz", "/version"] {
        run.heaps
            .push(Heap::new(path, http_get(process.http, path).await));
    }
    run.heaps.extend(files_of(&data, "while it runs"));
    assert!(process.stop().success());
    run.heaps.extend(files_of(&data, "after the stop"));
    let log = process.output();
    assert!(log.contains("TRACE"), "the log is not at trace level");
    run.heaps.push(Heap::new("the log", log));

    let found = run.needles.find_in(&run.heaps);
    assert!(
        found.is_empty(),
        "{} leaks:\n{}",
        found.len(),
        found.join("\n\n")
    );
    assert_a_planted_canary_is_found(&run);
}

/// The search can fail: each secret, in each of its forms, is found in a copy that holds it.
fn assert_a_planted_canary_is_found(run: &Run) {
    let database = run
        .heaps
        .iter()
        .find(|heap| heap.name.contains("keyward.db"))
        .unwrap();
    let mut planted = database.clone();
    for (_, bytes) in run.needles.iter() {
        planted.bytes.extend_from_slice(b" ");
        planted.bytes.extend_from_slice(bytes);
    }
    let found = run.needles.find_in([&planted]);
    // A half that stands in a whole is found as the whole.
    assert!(
        found.len() >= run.needles.iter().count(),
        "{} were found",
        found.len()
    );
}

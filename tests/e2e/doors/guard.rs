//! A service that guards an API with a near-cache: the example `rest_api` as a process.

use std::path::Path;

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::requests::creating_token;
use keyward_testkit::{Client, Key, Program, Web, start_api};
use parking_lot::Mutex;

use super::door::refused;

/// The service.
pub(super) struct Guard {
    pub(super) number: usize,
    program: Mutex<Program>,
    address: std::net::SocketAddr,
}

impl Guard {
    /// Starts it, as a caller of its own: a caller whose near-caches end without a word is barred.
    pub(super) async fn start(
        number: usize,
        admin: &Client,
        keyward: &[String],
        directory: &Path,
    ) -> Self {
        let roles = [Role::NearCache, Role::Verifier];
        let token = admin
            .send(creating_token(&format!("guard-{number}"), &roles))
            .await;
        let file = directory.join(format!("guard-{number}.token"));
        std::fs::write(&file, token.expect("an admin makes tokens").token)
            .expect("a file is written");
        let more = ["--near-cache", "--rate", "1000000"];
        let program = start_api(keyward, &file, &more);
        let address = program
            .ready()
            .parse()
            .expect("the line ends with the address");
        Self {
            number,
            program: Mutex::new(program),
            address,
        }
    }

    /// Its verdict on a key, or `None` if it has none now, or is gone.
    pub(super) async fn ask(&self, key: &Key) -> Option<Verdict> {
        let web = Web::new(self.address);
        let headers = [("apikey", &*key.text)];
        let answer = web.ask("GET", "/v2/user-info", &headers, "").await.ok()?;
        match answer.status {
            200 => Some(Verdict::Valid),
            401 => Some(refused(&answer.body)),
            status => {
                assert_eq!(status, 503, "{answer:?}");
                None
            }
        }
    }

    /// How often its near-cache answered without a call.
    pub(super) async fn hits(&self) -> usize {
        let answer = Web::new(self.address)
            .ask("GET", "/near-cache", &[], "")
            .await;
        let answer = answer.expect("the service answers").body;
        let stats: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
        let hits = stats["hits"].as_u64().expect("hits are counted");
        usize::try_from(hits).expect("so few fit")
    }

    pub(super) fn pause(&self) {
        self.program.lock().pause();
    }

    pub(super) fn go_on(&self) {
        self.program.lock().go_on();
    }

    pub(super) fn kill(&self) {
        self.program.lock().kill();
    }
}

//! Each RPC of both services, with any bytes as its message. The target remembers what the responses
//! say, and compares every verdict with that: a key that was never issued or imported, or that is revoked
//! or disabled, is never VALID. No import brings a key back. Statuses are the documented ones, and their
//! messages hold no secret.

mod imports;
mod input;

use std::collections::HashMap;

use keyward::system::SystemEntropy;
use keyward_core::key::Prefix;
use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::requests::{
    by_id, creating_token, disabling, recoverable, revoking_token, verifying,
};
use prost::Message;
use tonic::{Code, Status};

use crate::world::{METHODS, World};
use crate::{Target, key_text};
use imports::Imports;
pub use imports::{foreign_marker, importing};
use input::{CALLERS, NAMED};
pub use input::{Caller, Named, call, id_marker, text_marker};

/// The most calls of one input.
const MAX_CALLS: usize = 8;
/// A world with more inputs behind it becomes slow.
const INPUTS: usize = 2_000;

/// The input is a list of calls.
pub fn target() -> Target {
    let (mut judge, mut inputs) = (Judge::start(), 0);
    Box::new(move |data| {
        inputs += 1;
        if inputs % INPUTS == 0 {
            judge = Judge::start();
        }
        judge.run(data);
    })
}

/// What the last response said about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    revision: u64,
}

struct Judge {
    world: World,
    /// The id of each text that a response held.
    texts: HashMap<String, String>,
    seen: HashMap<String, Seen>,
    imports: Imports,
    /// Text and id of each named key.
    named: [(String, String); NAMED.len()],
    reader: (String, v1::CallerToken),
    former: String,
    /// A response did not show every key that the call changed.
    is_blind: bool,
}

impl Judge {
    fn start() -> Self {
        let mut world = World::start();
        let every: Vec<_> = (1..)
            .map_while(|role| v1::Role::try_from(role).ok())
            .collect();
        let former = new_token(&mut world, &every);
        let revoked: Result<v1::RevokeTokenResponse, _> = world.ask(
            "AdminService/RevokeToken",
            &revoking_token(&former.1.token_id),
        );
        revoked.expect("a token can be revoked");
        let reader = new_token(&mut world, &[v1::Role::Reader]);
        let mut judge = Self {
            world,
            texts: HashMap::new(),
            seen: HashMap::new(),
            imports: Imports::default(),
            named: Default::default(),
            reader,
            former: former.0,
            is_blind: true,
        };
        let prefix = Prefix::new("kw").expect("it is a prefix");
        let foreign = key_text::keyring().mint(&prefix, &SystemEntropy);
        judge.named[Named::Foreign as usize].0 = foreign.text.expose().to_owned();
        judge.named[Named::Revoked as usize] = judge.new_key("revoked");
        let id = judge.id(Named::Revoked);
        judge.ask("ApiKeyService/Revoke", &by_id(&id));
        judge
    }

    fn run(&mut self, data: &[u8]) {
        self.prepare();
        self.imports.next_text();
        let mut rest = data;
        for _ in 0..MAX_CALLS {
            let Some(([kind, low, high], after)) = rest.split_first_chunk() else {
                break;
            };
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
            let (message, after) = after.split_at(length);
            rest = after;
            let kind = usize::from(*kind);
            let method = METHODS[kind % METHODS.len()];
            let caller = CALLERS[kind / METHODS.len() % CALLERS.len()];
            // A refusal is as good an answer as any.
            let _ = self.call(caller, method, &self.with_names(message));
        }
        self.verify_all();
    }

    /// Brings the named keys and the reader's token into their states.
    fn prepare(&mut self) {
        let fresh = |state| Seen { state, revision: 0 };
        if self.is_blind || self.state(Named::Live) != Some(fresh(State::Active)) {
            self.named[Named::Live as usize] = self.new_key("live");
        }
        if self.is_blind
            || self.state(Named::Disabled).map(|seen| seen.state) != Some(State::Disabled)
        {
            self.named[Named::Disabled as usize] = self.new_key("disabled");
            let id = self.id(Named::Disabled);
            self.ask("ApiKeyService/Update", &disabling(&id, true));
        }
        if self.reader.1.revoke_time.is_some() {
            self.reader = new_token(&mut self.world, &[v1::Role::Reader]);
        }
        self.named[Named::Foreign as usize].1 = self.reader.1.token_id.clone();
        self.named[Named::Newest as usize] = self.named[Named::Live as usize].clone();
        self.is_blind = false;
    }

    /// Empties the slot and creates a key there. Returns its text and id.
    fn new_key(&mut self, name: &str) -> (String, String) {
        let request = v1::IssueRequest {
            name: name.to_owned(),
            ..recoverable("fuzz")
        };
        loop {
            let issued = self.ask("ApiKeyService/Issue", &request);
            let issued = v1::IssueResponse::decode(&*issued).expect("a response");
            let id = issued.key.expect("a key").key_id;
            if issued.created {
                return (issued.api_key, id);
            }
            self.ask("ApiKeyService/Revoke", &by_id(&id));
        }
    }

    fn id(&self, named: Named) -> String {
        self.named[named as usize].1.clone()
    }

    fn state(&self, named: Named) -> Option<Seen> {
        self.seen.get(&self.named[named as usize].1).copied()
    }

    /// A call of the judge, which succeeds.
    fn ask(&mut self, method: &'static str, message: &impl Message) -> Vec<u8> {
        let answer = self.call(Caller::Every, method, &message.encode_to_vec());
        answer.unwrap_or_else(|status| panic!("{method}: {status}"))
    }

    fn call(
        &mut self,
        caller: Caller,
        method: &'static str,
        message: &[u8],
    ) -> Result<Vec<u8>, Status> {
        let token = match caller {
            Caller::Every => Some(self.world.token.clone()),
            Caller::Nobody => None,
            Caller::Reader => Some(self.reader.0.clone()),
            Caller::Former => Some(self.former.clone()),
        };
        let answer = self.world.call(method, token.as_deref(), message);
        match &answer {
            Ok(answer) => {
                let may = match caller {
                    Caller::Every => true,
                    Caller::Reader => {
                        ["ApiKeyService/Get", "ApiKeyService/List"].contains(&method)
                            && self.reader.1.revoke_time.is_none()
                    }
                    Caller::Nobody | Caller::Former => false,
                };
                assert!(may, "{caller:?} may not call {method}");
                self.observe(method, message, answer).expect("a response");
            }
            Err(status) => self.refused(caller, status),
        }
        answer
    }

    fn refused(&self, caller: Caller, status: &Status) {
        let tokens = [&self.world.token, &self.reader.0, &self.former];
        let texts = self.named.iter().map(|(text, _)| text);
        let mut secrets = texts.chain(tokens).chain([self.imports.text()]);
        assert!(
            !secrets.any(|secret| status.message().contains(secret)),
            "an error repeats a secret"
        );
        let unknown = [
            Code::Unauthenticated,
            Code::InvalidArgument,
            Code::Unavailable,
        ];
        if [Caller::Nobody, Caller::Former].contains(&caller) {
            assert!(unknown.contains(&status.code()), "{caller:?}: {status}");
        }
    }

    /// Learns from a response, and judges its verdicts.
    fn observe(
        &mut self,
        method: &str,
        message: &[u8],
        answer: &[u8],
    ) -> Result<(), prost::DecodeError> {
        match method {
            "ApiKeyService/Issue" => {
                let issued = v1::IssueResponse::decode(answer)?;
                self.learn(issued.key, issued.api_key);
            }
            "ApiKeyService/Revoke" => {
                let revoked = v1::RevokeResponse::decode(answer)?;
                self.is_blind |= revoked.revoked_count > revoked.revoked.len() as u64;
                for key in revoked.revoked {
                    self.learn(Some(key), String::new());
                }
                self.learn(revoked.replacement, revoked.api_key);
            }
            "ApiKeyService/Verify" => {
                let request = v1::VerifyRequest::decode(message)?;
                self.judge(&request, &v1::VerifyResponse::decode(answer)?);
            }
            "ApiKeyService/VerifyBatch" => {
                let requests = v1::VerifyBatchRequest::decode(message)?.requests;
                let responses = v1::VerifyBatchResponse::decode(answer)?.responses;
                assert_eq!(requests.len(), responses.len());
                for (request, response) in requests.iter().zip(&responses) {
                    self.judge(request, response);
                }
            }
            "ApiKeyService/Get" => self.learn(v1::GetResponse::decode(answer)?.key, String::new()),
            "ApiKeyService/List" => {
                for key in v1::ListResponse::decode(answer)?.keys {
                    self.learn(Some(key), String::new());
                }
            }
            "ApiKeyService/Update" => {
                self.learn(v1::UpdateResponse::decode(answer)?.key, String::new());
            }
            "AdminService/ImportKeys" => {
                let request = v1::ImportKeysRequest::decode(message)?;
                let response = v1::ImportKeysResponse::decode(answer)?;
                self.imported(&request, &response);
            }
            "AdminService/UndoImport" => {
                let undone = v1::UndoImportRequest::decode(message)?.batch_id;
                for id in self.imports.brought_by(&undone) {
                    let state = State::Revoked;
                    self.seen.insert(id, Seen { state, revision: 0 });
                }
            }
            "AdminService/ExportKeys" => {
                for key in v1::ExportKeysResponse::decode(answer)?.keys {
                    self.learn(Some(key), String::new());
                }
            }
            "AdminService/RevokeToken" => {
                let token = v1::RevokeTokenResponse::decode(answer)?.caller_token;
                let token = token.expect("a token");
                if token.token_id == self.reader.1.token_id {
                    self.reader.1 = token;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn learn(&mut self, key: Option<v1::ApiKey>, text: String) {
        let Some(key) = key else { return };
        let (state, revision) = (key.state(), key.revision);
        let known = self
            .seen
            .insert(key.key_id.clone(), Seen { state, revision });
        let was_revoked = known.is_some_and(|known| known.state == State::Revoked);
        assert!(
            !was_revoked || state == State::Revoked,
            "it lives again: {key:?}"
        );
        if !text.is_empty() {
            self.named[Named::Newest as usize] = (text.clone(), key.key_id.clone());
            self.texts.insert(text, key.key_id);
        }
    }

    /// Imported keys are new, and no text has another key then.
    fn imported(&mut self, request: &v1::ImportKeysRequest, response: &v1::ImportKeysResponse) {
        assert_eq!(request.keys.len(), response.results.len());
        for (key, result) in request.keys.iter().zip(&response.results) {
            let is_secret = !key.api_key.is_empty() && result.description.contains(&key.api_key);
            assert!(!is_secret, "a result repeats a secret");
            if result.outcome() == v1::ImportOutcome::Imported && !request.dry_run {
                let fresh = Seen {
                    state: State::Active,
                    revision: 0,
                };
                let known = self.seen.insert(result.key_id.clone(), fresh);
                assert!(known.is_none(), "the id {} is not new", result.key_id);
                self.imports.add(&request.batch_id, key, &result.key_id);
                self.named[Named::Newest as usize].1 = result.key_id.clone();
            }
        }
    }

    /// The ids of the keys that a text names.
    fn ids_of(&self, text: &str) -> Vec<String> {
        match self.texts.get(text) {
            Some(id) => vec![id.clone()],
            None => self.imports.ids_of(text),
        }
    }

    fn judge(&self, request: &v1::VerifyRequest, response: &v1::VerifyResponse) {
        let ids = self.ids_of(&request.api_key);
        let named = ids.iter().find(|id| **id == response.key_id);
        let verdict = response.verdict();
        if verdict != Verdict::Valid {
            let is_dead = matches!(
                verdict,
                Verdict::Revoked | Verdict::Expired | Verdict::Disabled
            );
            let name = named.or(ids.first()).filter(|_| is_dead);
            let bare = v1::VerifyResponse {
                verdict: verdict.into(),
                key_id: name.cloned().unwrap_or_default(),
                ..Default::default()
            };
            assert_eq!(*response, bare, "a refused key has no data but its name");
            return;
        }
        assert!(named.is_some(), "VALID for a key that was never issued");
        for id in &ids {
            let state = self.seen.get(id).map(|seen| seen.state);
            assert_eq!(state, Some(State::Active), "VALID");
        }
    }

    /// Verifies each named key with and without a cache.
    fn verify_all(&mut self) {
        let mut requests = Vec::new();
        let texts = self.named.iter().map(|(text, _)| text);
        for text in texts.chain([self.imports.text()]) {
            for consistency in [v1::Consistency::Default, v1::Consistency::Strong] {
                requests.push(v1::VerifyRequest {
                    consistency: consistency.into(),
                    ..verifying(text)
                });
            }
        }
        let answer = self.ask(
            "ApiKeyService/VerifyBatch",
            &v1::VerifyBatchRequest { requests },
        );
        let answer = v1::VerifyBatchResponse::decode(&*answer).expect("a response");
        let fresh = Seen {
            state: State::Active,
            revision: 0,
        };
        if !self.is_blind && self.state(Named::Live) == Some(fresh) {
            let first = Named::Live as usize * 2;
            for verified in &answer.responses[first..first + 2] {
                assert_eq!(verified.verdict(), Verdict::Valid, "the live key");
            }
        }
    }

    /// Replaces the markers, so that an input reaches what the service has drawn at random.
    fn with_names(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        for named in NAMED {
            let (text, id) = &self.named[named as usize];
            replace(&mut message, text_marker(named).as_bytes(), text.as_bytes());
            replace(&mut message, id_marker(named).as_bytes(), id.as_bytes());
        }
        self.imports.with_text(&mut message);
        message
    }
}

fn replace(message: &mut [u8], marker: &[u8], with: &[u8]) {
    assert_eq!(marker.len(), with.len());
    let mut at = 0;
    while let Some(found) = message[at..]
        .windows(marker.len())
        .position(|part| part == marker)
    {
        at += found;
        message[at..at + marker.len()].copy_from_slice(with);
    }
}

fn new_token(world: &mut World, roles: &[v1::Role]) -> (String, v1::CallerToken) {
    let request = creating_token("fuzz", roles);
    let created: v1::CreateTokenResponse = world
        .ask("AdminService/CreateToken", &request)
        .expect("a token can be created");
    (created.token, created.caller_token.expect("a token"))
}

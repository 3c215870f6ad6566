//! The JSON port, with any bytes and with requests of any content. It answers with HTTP or closes the
//! connection. Errors are JSON with documented codes and hold no secret. A key is VALID there, or
//! accepted by `/auth`, only if it is VALID through gRPC. After each input, an honest request is answered.

use keyward::system::SystemEntropy;
use keyward_core::key::Prefix;
use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::HttpAnswer;
use keyward_testkit::requests::{
    by_id, creating_token, disabling, revoking_token, slot, verifying_strongly,
};
use serde_json::Value;

use crate::world::World;
use crate::{Target, key_text, requests};
use requests::{Named, id_marker, text_marker};

/// The paths of structured requests. What follows in the input is added to them.
const PATHS: [&str; 12] = [
    "/v1/keys:issue",
    "/v1/keys:revoke",
    "/v1/keys:verify",
    "/v1/keys:verifyBatch",
    "/v1/keys:get",
    "/v1/keys/",
    "/v1/keys",
    "/v1/tokens",
    "/v1/tokens:revoke",
    "/auth",
    "/openapi.json",
    "/",
];
const METHODS: [&str; 6] = ["POST", "GET", "PATCH", "HEAD", "OPTIONS", "DELETE"];
/// How the body is sent.
const FORMS: usize = 4;
/// A world with more inputs behind it becomes slow.
const INPUTS: usize = 2_000;
/// As long as a token.
const TOKEN_MARKER: &str = "kwt_MARKER";

/// The first byte says whether bytes or a request follow.
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

struct Judge {
    world: World,
    /// Text and id of each named key.
    named: Vec<(Named, String, String)>,
    reader: String,
    former: String,
    keys: usize,
}

impl Judge {
    fn start() -> Self {
        let mut world = World::start();
        let mut token = |roles: &[Role]| {
            let created: v1::CreateTokenResponse = world
                .ask("AdminService/CreateToken", &creating_token("fuzz", roles))
                .expect("a token can be created");
            let id = created.caller_token.expect("a token").token_id;
            (created.token, id)
        };
        let (reader, _) = token(&[Role::Reader]);
        let (former, id) = token(&[Role::Verifier, Role::Admin]);
        let revoked: Result<v1::RevokeTokenResponse, _> =
            world.ask("AdminService/RevokeToken", &revoking_token(&id));
        revoked.expect("a token can be revoked");
        let prefix = Prefix::new("kw").expect("it is a prefix");
        let foreign = key_text::keyring().mint(&prefix, &SystemEntropy);
        let foreign = foreign.text.expose().to_owned();
        let mut judge = Self {
            world,
            named: Vec::new(),
            reader,
            former,
            keys: 0,
        };
        let (text, id) = judge.new_key();
        let _: v1::RevokeResponse = judge.ask("ApiKeyService/Revoke", &by_id(&id));
        judge.named = vec![
            (Named::Revoked, text, id.clone()),
            (Named::Foreign, foreign, id),
        ];
        judge
    }

    fn ask<A: prost::Message + Default>(&mut self, rpc: &str, message: &impl prost::Message) -> A {
        let answer = self.world.ask(rpc, message);
        answer.unwrap_or_else(|status| panic!("{rpc}: {status}"))
    }

    fn new_key(&mut self) -> (String, String) {
        self.keys += 1;
        let account = format!("fuzz-{}", self.keys);
        let issued: v1::IssueResponse = self.ask("ApiKeyService/Issue", &slot(&account));
        (issued.api_key, issued.key.expect("a key").key_id)
    }

    /// The verdict through gRPC.
    fn verdict(&mut self, text: &str) -> Verdict {
        let answer: v1::VerifyResponse =
            self.ask("ApiKeyService/Verify", &verifying_strongly(text));
        answer.verdict()
    }

    /// Brings the live and the disabled key into their states.
    fn prepare(&mut self) {
        for (named, wanted) in [
            (Named::Live, Verdict::Valid),
            (Named::Disabled, Verdict::Disabled),
        ] {
            let known = self.named.iter().find(|(known, ..)| *known == named);
            let text = known.map(|(_, text, _)| text.clone());
            if text.is_some_and(|text| self.verdict(&text) == wanted) {
                continue;
            }
            let (text, id) = self.new_key();
            if named == Named::Disabled {
                let _: v1::UpdateResponse = self.ask("ApiKeyService/Update", &disabling(&id, true));
            }
            self.named.retain(|(known, ..)| *known != named);
            self.named.push((named, text, id));
        }
    }

    fn run(&mut self, data: &[u8]) {
        self.prepare();
        match data.split_first() {
            Some((mode, bytes)) if mode % 2 == 0 => self.run_raw(bytes),
            Some((_, bytes)) => self.run_request(bytes),
            None => {}
        }
        self.honest();
    }

    fn run_raw(&mut self, bytes: &[u8]) {
        let bytes = self.with_names(bytes);
        let answer = self.world.exchange(&bytes, true);
        let is_http2 = bytes.starts_with(b"PRI * HTTP/2.0");
        assert!(
            answer.is_empty() || is_http2 || answer.starts_with(b"HTTP/1."),
            "it is no HTTP"
        );
    }

    fn run_request(&mut self, bytes: &[u8]) {
        let Some(([path, method, caller, form, tail], rest)) = bytes.split_first_chunk() else {
            return;
        };
        let (tail, body) = rest.split_at(usize::from(*tail).min(rest.len()));
        let tail: Vec<u8> = tail.iter().copied().filter(u8::is_ascii_graphic).collect();
        let path = PATHS[usize::from(*path) % PATHS.len()];
        let path = [path.as_bytes(), &self.with_names(&tail)].concat();
        let path = String::from_utf8_lossy(&path).into_owned();
        let method = METHODS[usize::from(*method) % METHODS.len()];
        let body = self.with_names(body);
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        let mut request = head.into_bytes();
        request.extend(self.credentials(*caller, &path).into_bytes());
        append(&mut request, usize::from(*form) % FORMS, &body);
        let before = self.valid_before(&path, *caller, &body);
        let answer = self.world.exchange(&request, false);
        let answer = HttpAnswer::read(&answer).expect("a whole request is answered with HTTP");
        self.check(&path, method, &answer);
        let is_valid = match path.as_str() {
            "/v1/keys:verify" => answer.body.contains("\"VERDICT_VALID\""),
            path => path.starts_with("/auth") && answer.status == 200,
        };
        assert!(
            !is_valid || before,
            "VALID, but not through gRPC: {answer:?}"
        );
    }

    /// The headers of the caller. `/auth` gets its key in the other header.
    fn credentials(&self, caller: u8, path: &str) -> String {
        let every = self.world.token.as_str();
        let tokens: &[&str] = match caller % 5 {
            0 => &[every],
            1 => &[],
            2 => &[&self.reader],
            3 => &[&self.former],
            _ => &[every, every],
        };
        let name = match path.starts_with("/auth") {
            true => "x-keyward-token: ",
            false => "authorization: Bearer ",
        };
        let lines = tokens.iter().map(|token| format!("{name}{token}\r\n"));
        let mut lines: String = lines.collect();
        if path.starts_with("/auth") {
            lines += &format!("apikey: {}\r\n", self.auth_key(caller));
        }
        lines
    }

    /// The key that the caller sends to `/auth`.
    fn auth_key(&self, caller: u8) -> &str {
        let (_, key, _) = &self.named[usize::from(caller / 5) % self.named.len()];
        key
    }

    /// Whether the key of a request is VALID through gRPC.
    fn valid_before(&mut self, path: &str, caller: u8, body: &[u8]) -> bool {
        if path.starts_with("/auth") {
            let key = self.auth_key(caller).to_owned();
            return self.verdict(&key) == Verdict::Valid;
        }
        let body: Option<Value> = serde_json::from_slice(body).ok();
        let text = body.and_then(|body| {
            let text = body.get("apiKey").or_else(|| body.get("api_key"));
            text.and_then(Value::as_str).map(str::to_owned)
        });
        text.is_some_and(|text| self.verdict(&text) == Verdict::Valid)
    }

    fn check(&mut self, path: &str, method: &str, answer: &HttpAnswer) {
        let HttpAnswer { status, body, .. } = answer;
        if *status < 300 {
            return;
        }
        let secrets = [&self.world.token, &self.reader, &self.former];
        let texts = self.named.iter().map(|(_, text, _)| text);
        let mut secrets = secrets.into_iter().chain(texts);
        assert!(
            !secrets.any(|secret| body.contains(secret.as_str())),
            "a secret"
        );
        // HTTP itself refuses some requests, and a response to HEAD has no body.
        if body.is_empty() && (method == "HEAD" || [400, 414, 431].contains(status)) {
            return;
        }
        let error: Value = serde_json::from_str(body).expect("an error is JSON");
        if path.split(['?', '#']).next() == Some("/auth") {
            assert!([401, 403, 503].contains(status), "{answer:?}");
            assert_eq!(error["status"], *status, "{answer:?}");
            return;
        }
        let codes: &[u64] = match status {
            400 => &[3, 9],
            401 => &[16],
            403 => &[7],
            404 => &[5],
            405 => &[12],
            408 | 504 => &[4],
            413 => &[11],
            415 => &[3],
            429 | 431 => &[8],
            503 => &[14],
            _ => &[],
        };
        let code = error["code"].as_u64().unwrap_or_default();
        assert!(codes.contains(&code), "{answer:?}");
        let reason = error["details"][0]["reason"].as_str();
        assert!(
            reason.is_none_or(|reason| self.world.knows(reason)),
            "{answer:?}"
        );
    }

    /// An honest request gets its answer.
    fn honest(&mut self) {
        let live = self.named.iter().find(|(named, ..)| *named == Named::Live);
        let text = live.map(|(_, text, _)| text.clone()).expect("it is there");
        let wanted = self.verdict(&text);
        let body = format!("{{\"apiKey\":\"{text}\",\"consistency\":\"CONSISTENCY_STRONG\"}}");
        let token = &self.world.token;
        let request = format!(
            "POST /v1/keys:verify HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.world.exchange(request.as_bytes(), false);
        let answer = HttpAnswer::read(&answer).expect("an honest request is answered");
        assert_eq!(answer.status, 200, "{answer:?}");
        // A grace may have ended meanwhile.
        let wanted = [wanted, self.verdict(&text)].map(|verdict| verdict.as_str_name());
        let is_right = wanted.iter().any(|name| answer.body.contains(name));
        assert!(is_right, "{wanted:?}: {answer:?}");
    }

    /// Replaces the markers by what the service has drawn at random.
    fn with_names(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (named, text, id) in &self.named {
            replace(&mut bytes, text_marker(*named).as_bytes(), text.as_bytes());
            replace(&mut bytes, id_marker(*named).as_bytes(), id.as_bytes());
        }
        let token = self.world.token.as_bytes();
        replace(&mut bytes, TOKEN_MARKER.as_bytes(), token);
        bytes
    }
}

/// Appends the rest of the head, and the body.
fn append(request: &mut Vec<u8>, form: usize, body: &[u8]) {
    let length = body.len();
    let (name, value) = match form {
        0 | 1 => ("content-length", length.to_string()),
        _ => ("transfer-encoding", "chunked".to_owned()),
    };
    request.extend(format!("{name}: {value}\r\n").into_bytes());
    if form != 1 {
        request.extend(b"content-type: application/json\r\n");
    }
    request.extend(b"\r\n");
    match form {
        0 | 1 => request.extend(body),
        _ => {
            for chunk in body.chunks(if form == 2 { 7 } else { 100 }) {
                request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                request.extend(chunk);
                request.extend(b"\r\n");
            }
            request.extend(b"0\r\n\r\n");
        }
    }
}

fn replace(bytes: &mut Vec<u8>, marker: &[u8], with: &[u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .windows(marker.len())
        .position(|part| part == marker)
    {
        at += found;
        bytes.splice(at..at + marker.len(), with.iter().copied());
        at += with.len();
    }
}

//! The seeds of each target: valid inputs, from which the fuzzer starts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use keyward::cache::l2::encoding::encode;
use keyward_core::fence::{Epoch, Stamp};
use keyward_core::key::{
    AccountId, Entropy, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes, SlotName,
    Timestamp,
};
use keyward_crypto::keyring_files;

/// Randomness that is the same in every run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes();
            chunk.copy_from_slice(&next[8 - chunk.len()..]);
        }
    }
}

mod http;
mod near_polls;
mod requests;

pub(crate) use http::http;
pub(crate) use near_polls::near_polls;
pub(crate) use requests::requests;

type Seeds = BTreeMap<&'static str, Vec<u8>>;

fn texts<const N: usize>(seeds: [(&'static str, &str); N]) -> Seeds {
    seeds.map(|(name, text)| (name, text.into())).into()
}

pub(crate) fn key_text() -> Seeds {
    let digits = "0".repeat(43);
    texts([
        (
            "key",
            "kw_000102030405060708090A0B0C0D0E0F0G0H0I0J0K0L0M0NXXXXX",
        ),
        ("two-parts", &format!("test_{digits}")),
        ("digits", &digits),
        ("highest", &"z".repeat(43)),
        ("prefix", "acme_live"),
        ("id", "01960000-0000-7000-8000-000000000000"),
        ("uuid", "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00"),
        ("format", "old:sk_live_:base62:32"),
        ("body", "\u{1}\u{2}\u{3}4567890123456789012345678901"),
    ])
}

pub(crate) fn cache_entry() -> Seeds {
    let text = |text: &str| text.to_owned();
    let record = |full: bool| KeyRecord {
        id: KeyId::from_bytes([7; 16]),
        account: AccountId::new("account_id", text("42")).unwrap(),
        name: SlotName::default_slot(),
        hint: Hint(text("kw_abcd")),
        scopes: Scopes::new("scopes", vec![text("read"), text("trade")]).unwrap(),
        metadata: Metadata::new("metadata", [(text("env"), text("test"))].into()).unwrap(),
        networks: Networks::new("allowed_cidrs", &[text("10.0.0.0/8"), text("::1")]).unwrap(),
        recoverable: full,
        disabled: full,
        create_time: Timestamp::from_micros(-5),
        expire_time: full.then(|| Timestamp::from_micros(9)),
        revoke_time: full.then(|| Timestamp::from_micros(0)),
        revoked: full,
        revoke_reason: full.then(|| Reason::new("reason", text("leaked")).unwrap()),
        replaced_by: full.then(|| KeyId::from_bytes([8; 16])),
        revision: u64::from(full),
    };
    let stamp = Stamp {
        epoch: Epoch {
            system: u64::MAX,
            timeline: 3,
            incarnation: 2,
        },
        revision: 99,
    };
    BTreeMap::from([
        ("live", encode(&record(false), stamp)),
        ("revoked", encode(&record(true), stamp)),
        ("notice", vec![1; 32]),
    ])
}

pub(crate) fn keyring() -> Seeds {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("keyring");
    let entropy = Counting(0xfedc_ba98_7654_3210.into());
    keyring_files::generate(&dir, &entropy).unwrap();
    let edited = |choice: u8, name: &str, from: &str, to: &str| {
        let content = std::fs::read_to_string(dir.join(name)).unwrap();
        [&[choice][..], content.replace(from, to).as_bytes()].concat()
    };
    let file = |choice, name| edited(choice, name, "", "");
    BTreeMap::from([
        ("generation", file(0, "generation-1")),
        ("seal", file(2, "seal-1")),
        ("cache", file(4, "cache-1")),
        ("generation-repaired", file(1, "generation-1")),
        ("seal-repaired", file(3, "seal-1")),
        (
            "second-generation",
            edited(7, "generation-1", "generation = 1", "generation = 2"),
        ),
        ("number-zero", file(11, "cache-1")),
        ("foreign", file(12, "foreign-1")),
        ("second-foreign", edited(15, "foreign-1", "= 1", "= 2")),
        (
            "import",
            edited(17, "seal-1", "seal = 1\nkey = ", "import = 1\nkey = abcd"),
        ),
        ("capital-digits", edited(3, "seal-1", "fedc", "FEDC")),
        ("carriage-return", edited(3, "seal-1", "\ncrc", "\r\ncrc")),
    ])
}

pub(crate) fn page_token() -> Seeds {
    let behind = |choice: u8, id: &[u8]| [&[choice | 4], id].concat();
    BTreeMap::from([
        ("first-page", vec![2 << 3]),
        ("tokens", vec![2 << 3 | 3]),
        ("garbage", b"\x09AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec()),
        ("lowest", behind(1 << 3, &[0; 16])),
        ("highest", behind(2 << 3 | 1, &[0xff; 16])),
        ("lowest-token", behind(1 << 3 | 2, &[0; 16])),
        ("long", behind(0, &[0; 17])),
    ])
}

pub(crate) fn settings() -> Seeds {
    texts([
        ("server", SERVER),
        ("cluster", CLUSTER),
        ("bot", BOT),
        (
            "sentinel",
            "KEYWARD_REDIS=redis+sentinel://u:p@[::1]:26379,b/main?db=2\nKEYWARD_STORE=postgres://k@/k?host=/run\n\n",
        ),
        (
            "foreign",
            "KEYWARD_KEY_PREFIXES=kw\n\nforeign_formats = [\"uuid\", { name = \"a\", prefix = \"k\", alphabet = \"hex\", length = 32 }]\n",
        ),
        (
            "wrong",
            "KEYWARD_PORT=tcp://10.0.0.1:1\nKEYWARD_LISTN=x\nKEYWARD_WORKERS=-1\n\nlisten = 5\nworker = []\n",
        ),
    ])
}

const SERVER: &str = r#"KEYWARD_MAX_STALENESS=15s
KEYWARD_KEY_PREFIXES=kw, acme_live

listen = "127.0.0.1:0"
http_listen = "none"
data_dir = "./data"
store = "sqlite:keyward.db"
forbid_recoverable = true
workers = 4
log_format = "json"
otlp_endpoint = "http://user:password@127.0.0.1:4317/x?y"
"#;

const CLUSTER: &str = r#"KEYWARD_TLS_KEY=/tls/server.key

listen = "0.0.0.0:50051"
tls_cert = "/tls/server.crt"
store = ["postgres://k:P%40@db-a/keyward?sslmode=verify-full", "postgres://k:P%40@db-b:5433/keyward?sslmode=verify-full"]
redis = "rediss://keyward:PASSWORD@redis.internal:6379/1?ca=/tls/ca.crt"
keyring = "/etc/keyring"
key_prefixes = ["kw", "kw_test"]
"#;

const BOT: &str = r#"KEYWARD_BOT_TELEGRAM_TOKEN=123456:ABC-def_ghi
KEYWARD_ENDPOINT=https://keyward-a:50051,https://keyward-b:50051
KEYWARD_TOKEN_FILE=/run/token
KEYWARD_CA_FILE=/tls/ca.crt

http_listen = "127.0.0.1:9465"
hide_after = "10m"
account_template = "tg-{user_id}"
slot = "default"
scopes = ["read", "trade:*"]
reveals_per_hour = 30
insecure = true
support = "@example_support"
telegram_api_url = "http://telegram.example"
"#;

pub(crate) fn bot_updates() -> Seeds {
    let commands = [
        "/start",
        "/apikey",
        "/help",
        "/apikey@other_bot",
        "hello <b>&",
    ];
    let all = commands.map(|text| message(5, 5, text)).join("\n");
    let revoke = [message(5, 5, "/apikey"), tap(0), tap(1), tap(0)].join("\n");
    let cancel = [
        message(6, 6, "/start"),
        message(5, 5, "/apikey"),
        tap(1),
        tap(1),
    ]
    .join("\n");
    let foreign = [
        message(5, 5, "/apikey"),
        tap(0).replace(r#""id":5"#, r#""id":6"#),
    ]
    .join("\n");
    let group = message(5, -100_123, "/apikey").replace("private", "supergroup");
    texts([
        ("commands", &all),
        ("revoke", &revoke),
        ("cancel", &cancel),
        ("foreign-tap", &foreign),
        ("group", &group),
        ("others-chat", &message(6, 5, "/apikey")),
        ("unknown", r#"{"update_id":1,"unheard_of":[1,2,3]}"#),
        (
            "edited",
            &message(5, 5, "/apikey").replace(r#""message":"#, r#""edited_message":"#),
        ),
        (
            "inline",
            r#"{"update_id":1,"inline_query":{"id":"1","from":{"id":5,"is_bot":false,"first_name":"x"},"query":"x","offset":""}}"#,
        ),
    ])
}

fn message(from: i64, chat: i64, text: &str) -> String {
    format!(
        r#"{{"update_id":1,"message":{{"message_id":1,"date":1,"text":"{text}","from":{},"chat":{{"id":{chat},"type":"private","first_name":"x","title":"x"}}}}}}"#,
        user(from)
    )
}

fn tap(button: usize) -> String {
    format!(
        r#"{{"update_id":1,"callback_query":{{"id":"q","from":{},"chat_instance":"x","data":"@button{button}","message":{{"message_id":@message,"date":1,"text":"x","chat":{{"id":5,"type":"private","first_name":"x"}}}}}}}}"#,
        user(5)
    )
}

fn user(id: i64) -> String {
    format!(r#"{{"id":{id},"is_bot":false,"first_name":"x","language_code":"ru"}}"#)
}

//! Hostile updates: the bot keeps running, shows a key to its owner only, and revokes nothing.

use std::sync::LazyLock;

use keyward_testkit::Stage;
use keyward_testkit::telegram::{Button, Screen};
use regex::Regex;
use serde_json::{Value, json};

use super::actor::Actor;
use super::whole::assert_whole;

/// Updates of one person that are not a flood yet.
const BURST: usize = 40;
const GROUP: i64 = -1_000_000_000_123;

static KEY: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"kwt?_[0-9A-Za-z]{49}").unwrap());

/// A generator with the same numbers in every run.
struct Dice(u64);

impl Dice {
    /// A number below `bound`.
    fn draw(&mut self, bound: usize) -> usize {
        // Constants of Knuth's MMIX; only the high bits are random enough.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.draw(most + 1);
        (0..length)
            .map(|_| u8::try_from(self.draw(256)).unwrap())
            .collect()
    }
}

/// A victim with a key and an open question, and an attacker.
struct Scene {
    stage: Stage,
    anna: Actor,
    mallory: Actor,
    key: String,
    ask: Screen,
    menu: Screen,
    revokes: u64,
}

impl Scene {
    async fn begin() -> Self {
        let stage = Stage::start(&[
            ("KEYWARD_BOT_UPDATES_PER_MINUTE", "100000"),
            ("KEYWARD_BOT_REVEALS_PER_HOUR", "100000"),
            ("KEYWARD_BOT_REVOKES_PER_HOUR", "100000"),
            ("RUST_LOG", "trace"),
        ]);
        let anna = Actor::english(&stage, 1001);
        let mallory = Actor::english(&stage, 6666);
        let (key, ask) = anna.ask().await;
        let menu = mallory.start().await;
        stage.telegram.settled().await;
        let revokes = revokes(&stage).await;
        Self {
            stage,
            anna,
            mallory,
            key,
            ask,
            menu,
            revokes,
        }
    }

    /// The data of all buttons that the victim has seen.
    fn data(&self) -> Vec<String> {
        let shown = self.stage.telegram.shown().into_iter();
        let of_anna = shown.filter(|screen| screen.chat == self.anna.person.chat());
        let buttons = of_anna.flat_map(|screen| screen.rows.concat());
        let mut data: Vec<_> = buttons.filter_map(|button: Button| button.data).collect();
        data.sort();
        data.dedup();
        assert!(data.len() >= 5, "{data:?}");
        data
    }

    async fn settle(&self) {
        self.stage.telegram.settled().await;
    }

    /// Asserts that the updates had no effect.
    async fn end(mut self) {
        self.settle().await;
        assert!(self.stage.bot_runs(), "{}", self.stage.output());
        assert_eq!(revokes(&self.stage).await, self.revokes, "calls of Revoke");
        let metrics = self.stage.bot_says("/metrics").await;
        assert!(!metrics.contains("outcome=\"panicked\""), "{metrics}");
        for screen in self.stage.telegram.shown() {
            let texts = screen
                .buttons()
                .flat_map(|b| [&b.data, &b.copies])
                .flatten();
            for text in texts.chain([&screen.text]) {
                for found in KEY.find_iter(text) {
                    assert_eq!(screen.chat, self.anna.person.chat(), "{screen}");
                    assert_eq!(found.as_str(), self.key, "{screen}");
                }
            }
        }
        for method in ["sendMessage", "editMessageText"] {
            for call in self.stage.telegram.calls_of(method) {
                let to = call.arguments["chat_id"].as_i64().unwrap();
                let known = [self.anna.person.chat(), self.mallory.person.chat(), GROUP];
                assert!(known.contains(&to), "{call:?}");
            }
        }
        // The account is unchanged, and the bot works.
        let screen = self.anna.open().await;
        assert_eq!(screen.key(), Some(self.key.as_str()));
        assert_whole(&self.stage, &self.anna, &self.key, &[]).await;
        assert_eq!(self.stage.request(&self.key).await.status, 200);
        let output = self.stage.output();
        assert!(output.contains("keyward_bot::handler: "), "{output}");
        let secrets = [
            self.key.clone(),
            self.stage.bot_token(),
            self.stage.admin_token(),
            self.stage.telegram.token().to_owned(),
        ];
        for secret in secrets {
            assert!(!output.contains(&secret), "a secret is in the output");
        }
    }
}

/// The number of calls of Revoke.
async fn revokes(stage: &Stage) -> u64 {
    let metrics = stage.keyward_says("/metrics").await;
    let counts = metrics.lines().filter_map(|line| {
        let (labels, count) = line.strip_prefix("keyward_rpc_total{")?.split_once("} ")?;
        labels
            .contains("method=\"Revoke\"")
            .then(|| count.parse::<u64>().unwrap())
    });
    counts.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_data_does_nothing() {
    let scene = Scene::begin().await;
    let mut dice = Dice(1);
    let valid = scene.data();
    let mut hostile: Vec<Vec<u8>> = (0..150).map(|_| dice.bytes(80)).collect();
    hostile.extend([
        vec![],
        vec![0],
        vec![b'x'; 4096],
        b"v2".to_vec(),
        b"v2.c".to_vec(),
    ]);
    for data in &valid {
        let bytes = data.as_bytes();
        for at in 0..bytes.len() {
            // One character changed.
            let mut changed = bytes.to_vec();
            changed[at] = b"0Az-_.:"[dice.draw(7)];
            if changed != bytes {
                hostile.push(changed);
            }
        }
        hostile.extend((0..6).map(|_| bytes[..dice.draw(bytes.len())].to_vec()));
        hostile.push([bytes, b"A"].concat());
        hostile.push(bytes.to_ascii_uppercase());
        for version in ["v0", "v1", "v10", "", "V2"] {
            let other = data.replacen("v2", version, 1);
            assert_ne!(&other, data, "the data contains the version");
            hostile.push(other.into_bytes());
        }
    }
    hostile.retain(|data| !valid.iter().any(|valid| valid.as_bytes() == data));
    for burst in hostile.chunks(BURST) {
        for data in burst {
            // Forged data works for nobody, not even for the owner of the key.
            scene.anna.person.tap_bytes(scene.ask.id, data);
            scene.mallory.person.tap_bytes(scene.menu.id, data);
        }
        scene.settle().await;
    }
    let metrics = scene.stage.bot_says("/metrics").await;
    let forged = metrics
        .lines()
        .find_map(|line| line.strip_prefix("keyward_bot_forged_buttons_total "));
    let forged: usize = forged.unwrap().parse().unwrap();
    assert!(forged > hostile.len(), "{forged} of {}", hostile.len());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_of_another_user_do_nothing() {
    let scene = Scene::begin().await;
    scene.stage.telegram.group(GROUP);
    let (anna, mallory) = (
        scene.anna.person.within(GROUP),
        scene.mallory.person.within(GROUP),
    );
    for data in scene.data() {
        // On the attacker's message, on the id of the victim's message, and on no message.
        for message in [scene.menu.id, scene.ask.id, 1] {
            scene.mallory.person.tap_data(message, &data);
        }
        mallory.tap_data(scene.ask.id, &data);
        // The owner, in a group, where others would see the answer.
        anna.tap_data(scene.ask.id, &data);
        scene.settle().await;
    }
    for command in ["/start", "/apikey", "/apikey@keyward_test_bot", "/help"] {
        anna.send(command);
        mallory.send(command);
    }
    scene.settle().await;
    // The group gets this text only.
    for screen in anna.screens() {
        assert!(scene.anna.words.says(&screen, "group-text"), "{screen}");
    }
    assert!(!anna.screens().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_broken_updates_do_nothing() {
    let scene = Scene::begin().await;
    let confirm = scene.ask.button(scene.anna.words.label("button-confirm"));
    let confirm = confirm.unwrap().data.clone().unwrap();
    let (anna, mallory) = (scene.anna.person.id(), scene.mallory.person.id());
    let user = |id: i64| json!({ "id": id, "is_bot": false, "first_name": "X" });
    let bot = |id: i64| json!({ "id": id, "is_bot": true, "first_name": "X" });
    let private = |id: i64| json!({ "id": id, "type": "private", "first_name": "X" });
    let message = |from: Value, chat: Value, text: &str| {
        json!({
            "message_id": 7, "date": 1, "from": from, "chat": chat, "text": text,
        })
    };
    let tap = |from: Value, chat: Value| {
        json!({ "callback_query": {
            "id": "1", "from": from, "chat_instance": "1", "data": confirm,
            "message": { "message_id": scene.ask.id, "date": 1, "chat": chat, "text": "x" },
        }})
    };
    let channel = json!({ "id": -100_777, "type": "channel", "title": "X" });
    let mut hostile = vec![
        // Another person's chat, in both directions.
        tap(user(mallory), private(anna)),
        tap(user(anna), private(mallory)),
        tap(bot(anna), private(anna)),
        tap(user(anna), channel.clone()),
        tap(user(-5), private(-5)),
        tap(user(0), private(0)),
        json!({ "callback_query": { "id": "1", "from": user(anna), "chat_instance": "1",
            "data": confirm, "inline_message_id": "x" } }),
        json!({ "callback_query": { "id": "1", "chat_instance": "1", "data": confirm } }),
        json!({ "callback_query": { "from": user(anna) } }),
        json!({ "callback_query": 5 }),
        json!({ "callback_query": null }),
        json!({ "message": [] }),
        json!({ "message": { "message_id": -7 } }),
        json!({ "edited_message": message(user(mallory), private(mallory), "/apikey") }),
        json!({ "channel_post": message(user(mallory), channel.clone(), "/apikey") }),
        json!({ "business_message": message(user(mallory), private(anna), "/apikey") }),
        json!({ "inline_query": { "id": "1", "from": user(mallory), "query": "x", "offset": "" } }),
        json!({ "what_is_this": { "deep": [[[[[]]]]] } }),
        json!({}),
    ];
    for (from, chat) in [
        (user(mallory), private(anna)),
        (bot(mallory), private(mallory)),
        (user(mallory), channel),
        (user(-9), private(-9)),
        (user(i64::MAX), private(i64::MIN)),
        (Value::Null, private(mallory)),
    ] {
        hostile.push(json!({ "message": message(from, chat, "/apikey") }));
    }
    let mut sent = message(user(mallory), private(mallory), "/apikey");
    sent["via_bot"] = bot(7);
    hostile.push(json!({ "message": sent }));
    let mut anonymous = message(Value::Null, private(mallory), "/apikey");
    anonymous.as_object_mut().unwrap().remove("from");
    hostile.push(json!({ "message": anonymous }));
    for update in hostile {
        scene.stage.telegram.inject(update);
        scene.settle().await;
    }
    for text in [
        "x".repeat(4096),
        "🔑".repeat(4096),
        format!("/start {}", "<b>&".repeat(1022)),
        format!("/{}", "a".repeat(4095)),
        "/apikey@another_bot".to_owned(),
        "\0\u{202e}<code>kw_</code>".to_owned(),
        "x".repeat(1 << 20),
    ] {
        scene.mallory.person.send(&text);
        scene.settle().await;
    }
    scene.end().await;
}

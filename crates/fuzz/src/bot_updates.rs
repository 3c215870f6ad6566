//! Updates of Telegram, as the bot's webhook gets them. The bot answers each, nothing panics, and a
//! key is only ever shown in the private chat of its account.

use std::collections::HashMap;
use std::net::SocketAddr;

use keyward_bot::app;
use keyward_bot::settings::{self, Inputs};
use keyward_proto::v1::Role;
use keyward_testkit::telegram::Telegram;
use keyward_testkit::{Local, http_ask};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Target, panics, world};

const SECRET: &str = "secret-of-the-webhook";
/// A fake Telegram with more updates behind it becomes slow.
const INPUTS: usize = 500;
/// The most updates of one input.
const MAX_UPDATES: usize = 8;
/// The users and the group that the fake Telegram knows.
const USERS: [(i64, &str); 3] = [(5, "en"), (6, "zh-hans"), (7, "")];
const GROUP: i64 = -100_123;

/// Each line of the input is the body of a request of the webhook. `@message` names the newest message
/// of the first user, and `@button0` the data of its first button.
pub fn target() -> Target {
    let (mut bot, mut inputs) = (Bot::start(), 0);
    Box::new(move |data| {
        inputs += 1;
        if inputs % INPUTS == 0 {
            bot = Bot::start();
        }
        bot.run(data);
    })
}

/// A bot with a fake Telegram and a Keyward.
struct Bot {
    runtime: Runtime,
    /// `None` only while it is dropped.
    keyward: Option<Local>,
    telegram: Telegram,
    webhook: SocketAddr,
    stop: CancellationToken,
    bot: Option<JoinHandle<()>>,
    /// The chat of each key.
    chats: HashMap<String, i64>,
}

impl Bot {
    fn start() -> Self {
        let telegram = Telegram::start();
        for (id, language) in USERS {
            telegram.person(id, language);
        }
        telegram.group(GROUP);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be created");
        let stop = CancellationToken::new();
        let (keyward, webhook, bot) = runtime.block_on(start(&telegram, stop.clone()));
        telegram.resolve("bot.example", webhook);
        Self {
            runtime,
            keyward: Some(keyward),
            telegram,
            webhook,
            stop,
            bot: Some(bot),
            chats: HashMap::new(),
        }
    }

    fn run(&mut self, data: &[u8]) {
        for line in String::from_utf8_lossy(data).lines().take(MAX_UPDATES) {
            self.send(&self.with_names(line));
        }
    }

    fn with_names(&self, line: &str) -> String {
        let shown = self.telegram.shown();
        let newest = shown.iter().rfind(|screen| screen.chat == USERS[0].0);
        let Some(newest) = newest.filter(|_| line.contains('@')) else {
            return line.to_owned();
        };
        let mut line = line.replace("@message", &newest.id.to_string());
        for (n, button) in newest.buttons().enumerate() {
            if let Some(data) = &button.data {
                line = line.replace(&format!("@button{n}"), data);
            }
        }
        line
    }

    fn send(&mut self, body: &str) {
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        let answer = http_ask(self.webhook, "POST", "/hook", &headers, body);
        let answer = panics::none_during(|| self.runtime.block_on(answer));
        assert_eq!(answer.expect("the bot answers").status, 200);
        for screen in self.telegram.shown() {
            if let Some(key) = screen.key() {
                assert!(screen.chat > 0, "a key in a group");
                let chat = self.chats.entry(key.to_owned()).or_insert(screen.chat);
                assert_eq!(*chat, screen.chat, "a key in two chats");
            }
        }
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        self.stop.cancel();
        let (bot, keyward) = (self.bot.take(), self.keyward.take());
        self.runtime.block_on(async {
            if let Some(bot) = bot {
                bot.await.expect("the bot stops");
            }
            if let Some(keyward) = keyward {
                keyward.app.stop().await;
            }
        });
    }
}

/// Starts Keyward, and a bot with a webhook.
async fn start(
    telegram: &Telegram,
    stop: CancellationToken,
) -> (Local, SocketAddr, JoinHandle<()>) {
    let keyward = world::local().await;
    let token = keyward.client().await;
    let token = token.token("bot", &[Role::Issuer, Role::Revealer]).await;
    let file = |name: &str, content: &str| {
        let path = keyward.directory.path().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path.display().to_string()
    };
    let flags = [
        ("telegram_token_file", file("telegram", telegram.token())),
        ("telegram_api_url", telegram.url()),
        ("endpoint", format!("http://{}", keyward.app.grpc_address())),
        ("token_file", file("token", &token.expect("a token"))),
        ("http_listen", "none".to_owned()),
        ("webhook_url", "https://bot.example/hook".to_owned()),
        ("webhook_listen", "127.0.0.1:0".to_owned()),
        ("webhook_secret_file", file("webhook", SECRET)),
        ("reveals_per_hour", "100000".to_owned()),
        ("revokes_per_hour", "100000".to_owned()),
        ("updates_per_minute", "100000".to_owned()),
    ];
    let settings = settings::load(Inputs {
        flags: flags.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Inputs::default()
    });
    let settings = settings.expect("the settings are right");
    let (sender, mut ready) = tokio::sync::mpsc::unbounded_channel();
    let bot = tokio::spawn(async move {
        let ready = |ready| drop(sender.send(ready));
        app::serve(settings, None, stop, ready)
            .await
            .expect("the bot starts");
    });
    let ready = ready.recv().await.expect("the bot becomes ready");
    (keyward, ready.webhook.expect("a webhook"), bot)
}

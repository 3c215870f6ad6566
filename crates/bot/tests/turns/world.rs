//! Starts a bot with both fakes, and waits for its answers.

use std::sync::Arc;

use keyward_bot::app;
use keyward_bot::i18n::{Id, Language, Texts};
use keyward_bot::settings::{self, Inputs};
use keyward_testkit::PATIENCE;
use keyward_testkit::telegram::{Person, Screen, Telegram};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::keyward::Keyward;

pub(crate) struct World {
    pub(crate) telegram: Telegram,
    pub(crate) keyward: Arc<Keyward>,
    pub(crate) files: tempfile::TempDir,
    pub(crate) keyward_url: String,
    bot: Option<Running>,
}

/// A bot in its own runtime, so that a test can kill all its tasks.
struct Running {
    runtime: Runtime,
    bot: JoinHandle<()>,
    stop: CancellationToken,
}

/// A text of the bot.
pub(crate) fn text(language: Language, id: Id) -> String {
    Texts::default().plain(language, id)
}

/// A text in English.
pub(crate) fn en(id: Id) -> String {
    text(Language::English, id)
}

impl World {
    pub(crate) async fn new() -> Self {
        let (keyward, keyward_url) = Keyward::start().await;
        let (files, telegram) = (tempfile::tempdir().unwrap(), Telegram::start());
        std::fs::write(files.path().join("token"), "kwt_canary").unwrap();
        std::fs::write(files.path().join("telegram"), telegram.token()).unwrap();
        Self {
            telegram,
            keyward,
            files,
            keyward_url,
            bot: None,
        }
    }

    /// A world with a running bot.
    pub(crate) async fn start(flags: &[(&str, &str)]) -> Self {
        let mut world = Self::new().await;
        world.start_bot(flags).await;
        world
    }

    /// The settings of a bot that uses both fakes.
    pub(crate) fn flags(&self) -> Vec<(String, String)> {
        let file = |name: &str| self.files.path().join(name).display().to_string();
        [
            ("telegram_token_file", file("telegram")),
            ("telegram_api_url", self.telegram.url()),
            ("endpoint", self.keyward_url.clone()),
            ("token_file", file("token")),
            ("http_listen", "127.0.0.1:0".to_owned()),
            ("updates_per_minute", "10000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub(crate) async fn start_bot(&mut self, flags: &[(&str, &str)]) -> app::Ready {
        let mut all = self.flags();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        all.extend(flags.iter().map(owned));
        let settings = settings::load(Inputs {
            flags: all,
            ..Inputs::default()
        });
        let (sender, mut ready) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (settings, until) = (settings.unwrap(), stop.clone());
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let bot = runtime.spawn(async move {
            let ready = |ready| sender.send(ready).unwrap();
            app::serve(settings, None, until, ready).await.unwrap();
        });
        self.bot = Some(Running { runtime, bot, stop });
        let ready = tokio::time::timeout(PATIENCE, ready.recv());
        ready.await.unwrap().unwrap()
    }

    /// Stops the bot in order. The future ends with the bot.
    pub(crate) fn stop_bot(&mut self) -> impl Future<Output = ()> + use<> {
        let Running { runtime, bot, stop } = self.bot.take().unwrap();
        stop.cancel();
        async move {
            tokio::time::timeout(PATIENCE, bot).await.unwrap().unwrap();
            runtime.shutdown_background();
        }
    }

    /// Kills the bot: it finishes, confirms and hides nothing.
    pub(crate) async fn kill_bot(&mut self) {
        let Running { runtime, bot, .. } = self.bot.take().unwrap();
        runtime.shutdown_background();
        assert!(bot.await.unwrap_err().is_cancelled());
    }

    /// Sends a text. Returns the newest message after the bot has handled it.
    pub(crate) async fn ask(&self, who: &Person, text: &str) -> Screen {
        who.send(text);
        self.telegram.settled().await;
        who.screen()
            .unwrap_or_else(|| panic!("no answer to {text}"))
    }

    /// Taps the button. Returns the same message after the bot has handled the tap.
    pub(crate) async fn press(&self, who: &Person, screen: &Screen, button: Id) -> Screen {
        self.press_labelled(who, screen, &en(button)).await
    }

    pub(crate) async fn press_labelled(
        &self,
        who: &Person,
        screen: &Screen,
        button: &str,
    ) -> Screen {
        who.tap_on(screen, button);
        self.telegram.settled().await;
        who.message(screen.id).expect("the message exists")
    }

    /// Opens the key in a new message.
    pub(crate) async fn open_key(&self, who: &Person) -> (Screen, String) {
        let screen = self.ask(who, "/apikey").await;
        let key = key_in(&screen);
        (screen, key)
    }

    /// Opens the question whether to revoke, in a new message.
    pub(crate) async fn ask_to_revoke(&self, who: &Person) -> (Screen, String) {
        let (screen, key) = self.open_key(who).await;
        (self.press(who, &screen, Id::BUTTON_REVOKE).await, key)
    }

    /// The only live key of a person's account.
    pub(crate) fn live(&self, who: &Person) -> String {
        let live = self.keyward.live(&format!("tg-{}", who.id()));
        let [key] = &live[..] else {
            panic!("{} live keys instead of one", live.len());
        };
        key.clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(running) = self.bot.take() {
            // A runtime must not wait for its end inside another one.
            running.runtime.shutdown_background();
        }
    }
}

/// The key that a screen shows.
pub(crate) fn key_in(screen: &Screen) -> String {
    let key = screen.key().map(str::to_owned);
    key.unwrap_or_else(|| panic!("no key in\n{screen}"))
}

//! A bot between the two, and waiting for what it does.

use std::sync::Arc;
use std::time::Duration;

use keyward_bot::app;
use keyward_bot::i18n::{Id, Language, Texts};
use keyward_bot::settings::{self, Inputs};
use keyward_testkit::telegram::{Person, Screen, Telegram};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::keyward::Keyward;

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) telegram: Telegram,
    pub(crate) keyward: Arc<Keyward>,
    pub(crate) files: tempfile::TempDir,
    pub(crate) keyward_url: String,
    bot: Option<Running>,
}

/// A bot on threads of its own, so that all of it can be ended at once.
struct Running {
    runtime: Runtime,
    bot: JoinHandle<()>,
    stop: CancellationToken,
}

/// What stands on a button, or in a message.
pub(crate) fn text(language: Language, id: Id) -> String {
    Texts::new().plain(language, id)
}

/// The same in English.
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

    /// With the bot running.
    pub(crate) async fn start(flags: &[(&str, &str)]) -> Self {
        let mut world = Self::new().await;
        world.start_bot(flags).await;
        world
    }

    /// The settings that lead to the two.
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
        let (tell, ready) = tokio::sync::oneshot::channel();
        let stop = CancellationToken::new();
        let (settings, until) = (settings.unwrap(), stop.clone());
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let bot = runtime.spawn(async move {
            let ready = |ready| tell.send(ready).unwrap();
            app::serve(settings, until, ready).await.unwrap();
        });
        self.bot = Some(Running { runtime, bot, stop });
        tokio::time::timeout(PATIENCE, ready)
            .await
            .unwrap()
            .unwrap()
    }

    /// Stops the bot in order: what is answered ends when it has.
    pub(crate) fn stop_bot(&mut self) -> impl Future<Output = ()> + use<> {
        let Running { runtime, bot, stop } = self.bot.take().unwrap();
        stop.cancel();
        async move {
            tokio::time::timeout(PATIENCE, bot).await.unwrap().unwrap();
            runtime.shutdown_background();
        }
    }

    /// Ends it as a crash would: nothing is finished, confirmed or hidden.
    pub(crate) async fn kill_bot(&mut self) {
        let Running { runtime, bot, .. } = self.bot.take().unwrap();
        runtime.shutdown_background();
        assert!(bot.await.unwrap_err().is_cancelled());
    }

    /// Says something, and gives the newest message once it was handled.
    pub(crate) async fn ask(&self, who: &Person, said: &str) -> Screen {
        who.send(said);
        self.telegram.settled().await;
        who.screen()
            .unwrap_or_else(|| panic!("no answer to {said}"))
    }

    /// Taps the button, and gives the same message once that was handled.
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
        who.message(screen.id).expect("the message is there")
    }

    /// Opens the key in a new message.
    pub(crate) async fn open_key(&self, who: &Person) -> (Screen, String) {
        let screen = self.ask(who, "/apikey").await;
        let key = key_in(&screen);
        (screen, key)
    }

    /// Up to the question whether to revoke, in a new message.
    pub(crate) async fn ask_to_revoke(&self, who: &Person) -> (Screen, String) {
        let (screen, key) = self.open_key(who).await;
        (self.press(who, &screen, Id::BUTTON_REVOKE).await, key)
    }

    /// The one live key of a person's account.
    pub(crate) fn live(&self, who: &Person) -> String {
        let live = self.keyward.live(&format!("tg-{}", who.id()));
        let [key] = &live[..] else {
            panic!("one live key, not {}", live.len());
        };
        key.clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(running) = self.bot.take() {
            // A runtime may not wait for its end within another.
            running.runtime.shutdown_background();
        }
    }
}

/// The key that a screen shows.
pub(crate) fn key_in(screen: &Screen) -> String {
    let key = screen.key().map(str::to_owned);
    key.unwrap_or_else(|| panic!("no key in\n{screen}"))
}

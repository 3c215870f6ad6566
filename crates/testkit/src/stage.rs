//! Everything that the story takes: Keyward on its embedded store, and what stands before it. The bot
//! reaches Keyward through a proxy, so that its answers can be lost.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use crate::local::token_in;
use crate::ports::draw_port;
use crate::process::without_settings;
use crate::{Client, Front, FrontOptions, Process, Programs, Proxy, http_ask};

/// Keyward, and the [`Front`] before it. Ends when dropped.
pub struct Stage {
    front: Front,
    /// Between the bot and Keyward.
    pub proxy: Proxy,
    keyward: Option<Process>,
    /// What was said by Keywards that have ended.
    said: String,
    place: Place,
}

/// What outlives Keyward's process: its data, and where it serves.
struct Place {
    directory: tempfile::TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Stage {
    /// Starts everything. `bot` are variables for the bot, besides those that it takes to run.
    pub fn start(bot: &[(&'static str, &str)]) -> Self {
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, draw_port()));
        let place = Place {
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            grpc: local(),
            http: local(),
        };
        let keyward = place.start();
        let proxy = Proxy::to(place.grpc);
        let variables = bot.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let front = Front::start(FrontOptions {
            for_bot: vec![proxy.address()],
            for_api: vec![place.grpc],
            admin_token: place.data().join("admin.token"),
            bot: variables.collect(),
        });
        Self {
            front,
            proxy,
            keyward: Some(keyward),
            said: String::new(),
            place,
        }
    }

    /// Starts Keyward, which must not be running, where it was.
    pub fn start_keyward(&mut self) {
        assert!(self.keyward.is_none(), "Keyward runs");
        self.keyward = Some(self.place.start());
    }

    /// Kills Keyward, as a power cut would.
    pub fn kill_keyward(&mut self) {
        let mut keyward = self.keyward.take().expect("Keyward runs");
        keyward.kill();
        self.said += &keyward.output();
    }

    /// Asks Keyward to stop, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    pub fn stop_keyward(&mut self) {
        let mut keyward = self.keyward.take().expect("Keyward runs");
        let status = keyward.stop();
        assert!(status.success(), "keyward: {status}\n{}", keyward.output());
        self.said += &keyward.output();
    }

    /// A client of Keyward with every role.
    pub async fn client(&self) -> Client {
        Client::new(self.place.grpc, Some(&self.admin_token())).await
    }

    /// Keyward's first token.
    pub fn admin_token(&self) -> String {
        token_in(&self.place.data())
    }

    /// Keyward's database.
    pub fn database(&self) -> PathBuf {
        self.place.data().join("keyward.db")
    }

    /// What Keyward's side port says at `path`.
    pub async fn keyward_says(&self, path: &str) -> String {
        let answer = http_ask(self.place.http, "GET", path, &[], "").await;
        answer.expect("the side port answers").body
    }

    /// All that any of the processes has said so far.
    pub fn output(&self) -> String {
        let keyward = self.keyward.as_ref().map(Process::output);
        self.said.clone() + &keyward.unwrap_or_default() + &self.front.output()
    }
}

impl Deref for Stage {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Front {
        &mut self.front
    }
}

impl Place {
    fn data(&self) -> PathBuf {
        self.directory.path().join("keyward-data")
    }

    fn start(&self) -> Process {
        let mut command = without_settings(text(&Programs::get().keyward));
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_LISTEN", self.grpc.to_string())
            .env("KEYWARD_HTTP_LISTEN", self.http.to_string())
            .env("KEYWARD_DATA_DIR", self.data())
            // The shortest there is: a Revoke waits no longer.
            .env("KEYWARD_MAX_STALENESS", "2s");
        Process::start(command, &self.data())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path is text")
}

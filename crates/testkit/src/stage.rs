//! The whole system of the story: Keyward with its embedded store, and its front end. The bot
//! reaches Keyward through a proxy, so that a test can drop its responses.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use crate::local::token_in;
use crate::ports::draw_port;
use crate::process::{READY, without_settings};
use crate::program::Restarted;
use crate::{Client, Front, FrontOptions, Program, Programs, Proxy, http_ask};

/// Keyward and its [`Front`]. Ends when dropped.
pub struct Stage {
    front: Front,
    /// The proxy between the bot and Keyward.
    pub proxy: Proxy,
    keyward: Restarted,
    home: KeywardHome,
}

/// The data directory and the addresses, which all Keyward processes of a stage share.
struct KeywardHome {
    directory: tempfile::TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Stage {
    /// Starts everything. `bot` contains additional environment variables of the bot.
    pub fn start(bot: &[(&'static str, &str)]) -> Self {
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, draw_port()));
        let home = KeywardHome {
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            grpc: local(),
            http: local(),
        };
        let mut keyward = Restarted::default();
        keyward.start(|| home.start());
        let proxy = Proxy::to(home.grpc);
        let variables = bot.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let front = Front::start(FrontOptions {
            for_bot: vec![proxy.address()],
            for_api: vec![home.grpc],
            admin_token: home.data().join("admin.token"),
            bot: variables.collect(),
        });
        Self {
            front,
            proxy,
            keyward,
            home,
        }
    }

    /// Starts Keyward, which must not be running, with the same data and addresses.
    pub fn start_keyward(&mut self) {
        self.keyward.start(|| self.home.start());
    }

    /// Kills Keyward with SIGKILL, like a power failure.
    pub fn kill_keyward(&mut self) {
        self.keyward.kill();
    }

    /// Stops Keyward and waits for its end.
    ///
    /// # Panics
    ///
    /// Keyward ends with an error.
    pub fn stop_keyward(&mut self) {
        self.keyward.stop();
    }

    /// A client of Keyward with every role.
    pub async fn client(&self) -> Client {
        Client::new(self.home.grpc, Some(&self.admin_token())).await
    }

    /// Keyward's first token.
    pub fn admin_token(&self) -> String {
        token_in(&self.home.data())
    }

    /// Keyward's database.
    pub fn database(&self) -> PathBuf {
        self.home.data().join("keyward.db")
    }

    /// The response of Keyward's side port at `path`.
    pub async fn keyward_says(&self, path: &str) -> String {
        let answer = http_ask(self.home.http, "GET", path, &[], "").await;
        answer.expect("the side port answers").body
    }

    /// The output of all processes so far.
    pub fn output(&self) -> String {
        self.keyward.output() + &self.front.output()
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

impl KeywardHome {
    fn data(&self) -> PathBuf {
        self.directory.path().join("keyward-data")
    }

    fn start(&self) -> Program {
        let mut command = without_settings(&Programs::get().keyward);
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_LISTEN", self.grpc.to_string())
            .env("KEYWARD_REST_LISTEN", "127.0.0.1:0")
            .env("KEYWARD_HTTP_LISTEN", self.http.to_string())
            .env("KEYWARD_DATA_DIR", self.data())
            // The minimum, so that a Revoke waits as briefly as possible.
            .env("KEYWARD_MAX_STALENESS", "2s");
        Program::start("keyward", command, READY)
    }
}

//! The front end of Keyward: the bot and an API as processes, and a fake Telegram.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::files;
use crate::process::without_settings;
use crate::program::Restarted;
use crate::telegram::{Person, Telegram};
use crate::{HttpAnswer, Program, Programs, http_ask};

/// The constant part of the bot's ready line.
const BOT_READY: &str = "keyward-bot is ready: ";
const API_READY: &str = "rest_api is ready: http://";

/// The addresses of Keyward, and the bot's options.
#[derive(Clone, Debug, Default)]
pub struct FrontOptions {
    /// The instances for the bot.
    pub for_bot: Vec<SocketAddr>,
    /// The instances for the API. The operator uses the first.
    pub for_api: Vec<SocketAddr>,
    /// The file of a token with every role.
    pub admin_token: PathBuf,
    /// Additional environment variables of the bot.
    pub bot: Vec<(&'static str, String)>,
}

/// The bot, the API and Telegram. They end when this is dropped.
pub struct Front {
    bot: Restarted,
    api: Program,
    /// Telegram.
    pub telegram: Telegram,
    options: FrontOptions,
    directory: tempfile::TempDir,
}

impl Front {
    /// Creates a token with the minimum roles for each, and starts both.
    pub fn start(options: FrontOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let token = |name: &str, roles: &[&str]| {
            let file = directory.path().join(format!("{name}.token"));
            files::write(&file, &make_token(&options, name, roles));
            file
        };
        let api = token("api", &["verifier"]);
        let api = start_api(&urls(&options.for_api), &api, &["--rate", "1000"]);
        token("bot", &["issuer", "revealer"]);
        let mut front = Self {
            bot: Restarted::default(),
            api,
            telegram: Telegram::start(),
            options,
            directory,
        };
        front.start_bot();
        front
    }

    fn bot_token_file(&self) -> PathBuf {
        self.directory.path().join("bot.token")
    }

    /// Starts the bot, which must not be running.
    pub fn start_bot(&mut self) {
        let mut command = without_settings(&Programs::get().bot);
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_BOT_TELEGRAM_TOKEN", self.telegram.token())
            .env("KEYWARD_BOT_TELEGRAM_API_URL", self.telegram.url())
            .env("KEYWARD_BOT_HTTP_LISTEN", "127.0.0.1:0")
            .env("KEYWARD_ENDPOINT", urls(&self.options.for_bot).join(","))
            .env("KEYWARD_TOKEN_FILE", self.bot_token_file())
            .envs(self.options.bot.iter().map(|(name, value)| (*name, value)));
        self.bot
            .start(|| Program::start("keyward-bot", command, BOT_READY));
    }

    /// Kills the bot with SIGKILL, like a power failure.
    pub fn kill_bot(&mut self) {
        self.bot.kill();
    }

    /// Stops the bot and waits for its end.
    ///
    /// # Panics
    ///
    /// The bot ends with an error.
    pub fn stop_bot(&mut self) {
        self.bot.stop();
    }

    /// Whether the bot is still running.
    pub fn bot_runs(&mut self) -> bool {
        self.bot.runs()
    }

    /// The bot's Keyward token.
    pub fn bot_token(&self) -> String {
        files::read(&self.bot_token_file()).trim_end().to_owned()
    }

    /// The address of the API.
    pub fn api(&self) -> SocketAddr {
        let address = self.api.ready().parse();
        address.expect("the API prints its address")
    }

    /// The API's response to a request with this key.
    pub async fn request(&self, key: &str) -> HttpAnswer {
        let headers = [("apikey", key)];
        let answer = http_ask(self.api(), "GET", "/v2/orders", &headers, "").await;
        answer.expect("the API answers")
    }

    /// The address after `what` in the bot's ready line.
    fn bot_address(&self, what: &str) -> Option<SocketAddr> {
        let (_, rest) = self.bot.running().ready().split_once(what)?;
        rest.split(',').next()?.trim().parse().ok()
    }

    /// The address of the bot's webhook, if it has one.
    pub fn bot_webhook(&self) -> Option<SocketAddr> {
        self.bot_address("webhook on ")
    }

    /// The response of the bot's side port at `path`.
    pub async fn bot_says(&self, path: &str) -> String {
        let address = self.bot_address("probes on ");
        let address = address.expect("the bot prints the address of its side port");
        let answer = http_ask(address, "GET", path, &[], "").await;
        answer.expect("the side port answers").body
    }

    /// The account of a person.
    pub fn account(&self, person: &Person) -> String {
        format!("tg-{}", person.id())
    }

    /// The output of the bot and of the API so far.
    pub fn output(&self) -> String {
        self.bot.output() + &self.api.output()
    }
}

/// Runs `keyward` with these arguments and the token with every role, as an operator does.
fn operator(options: &FrontOptions, arguments: &[&str]) -> Command {
    let mut command = without_settings(&Programs::get().keyward);
    command
        .args(arguments)
        .env("KEYWARD_ENDPOINT", &urls(&options.for_api)[0])
        .env("KEYWARD_TOKEN_FILE", &options.admin_token);
    command
}

fn make_token(options: &FrontOptions, name: &str, roles: &[&str]) -> String {
    let mut arguments = vec!["token", "create", name, "--output", "json"];
    for role in roles {
        arguments.extend(["--role", role]);
    }
    let output = operator(options, &arguments).output();
    let output = output.expect("keyward can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "keyward token create {name}: {errors}"
    );
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("keyward prints JSON");
    let token = answer["token"].as_str();
    token.expect("the answer holds the token").to_owned()
}

/// Starts the example `rest_api`, which reaches Keyward at these URLs, with the token in a file. The
/// address follows the ready line.
pub fn start_api(keyward: &[String], token_file: &Path, more: &[&str]) -> Program {
    let mut command = without_settings(&Programs::get().rest_api);
    command.args(["--listen", "127.0.0.1:0"]).args(more);
    for url in keyward {
        command.arg("--keyward").arg(url);
    }
    command.arg("--token-file").arg(token_file);
    Program::start("rest_api", command, API_READY)
}

fn urls(addresses: &[SocketAddr]) -> Vec<String> {
    let urls = addresses.iter().map(|address| format!("http://{address}"));
    urls.collect()
}

//! The front end of Keyward: the bot and an API as processes, and a fake Telegram.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::without_settings;
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
    bot: Option<Program>,
    api: Program,
    /// Telegram.
    pub telegram: Telegram,
    /// The output of ended bot processes.
    past_output: String,
    options: FrontOptions,
    directory: tempfile::TempDir,
}

impl Front {
    /// Creates a token with the minimum roles for each, and starts both.
    pub fn start(options: FrontOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let token = |name: &str, roles: &[&str]| {
            let file = directory.path().join(format!("{name}.token"));
            write(&file, &make_token(&options, name, roles));
            file
        };
        let api = start_api(&options, &token("api", &["verifier"]));
        token("bot", &["issuer", "revealer"]);
        let mut front = Self {
            bot: None,
            api,
            telegram: Telegram::start(),
            past_output: String::new(),
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
        assert!(self.bot.is_none(), "the bot runs");
        let mut command = without_settings(text(&Programs::get().bot));
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_BOT_TELEGRAM_TOKEN", self.telegram.token())
            .env("KEYWARD_BOT_TELEGRAM_API_URL", self.telegram.url())
            .env("KEYWARD_BOT_HTTP_LISTEN", "127.0.0.1:0")
            .env("KEYWARD_ENDPOINT", urls(&self.options.for_bot).join(","))
            .env("KEYWARD_TOKEN_FILE", self.bot_token_file())
            .envs(self.options.bot.iter().map(|(name, value)| (*name, value)));
        self.bot = Some(Program::start("keyward-bot", command, BOT_READY));
    }

    /// Kills the bot with SIGKILL, like a power failure.
    pub fn kill_bot(&mut self) {
        let mut bot = self.bot.take().expect("the bot runs");
        bot.kill();
        self.past_output += &bot.output();
    }

    /// Stops the bot and waits for its end.
    ///
    /// # Panics
    ///
    /// The bot ends with an error.
    pub fn stop_bot(&mut self) {
        let mut bot = self.bot.take().expect("the bot runs");
        let status = bot.stop();
        let output = bot.output();
        assert!(status.success(), "keyward-bot: {status}\n{output}");
        self.past_output += &output;
    }

    /// Whether the bot is still running.
    pub fn bot_runs(&mut self) -> bool {
        self.bot.as_mut().is_some_and(Program::runs)
    }

    /// The bot's Keyward token.
    pub fn bot_token(&self) -> String {
        let text = std::fs::read_to_string(self.bot_token_file());
        text.expect("the token can be read").trim_end().to_owned()
    }

    /// The address of the API.
    pub fn api(&self) -> SocketAddr {
        let address = self.api.ready().parse();
        address.expect("the API prints its address")
    }

    /// The API's response to a request with this key.
    pub async fn request(&self, key: &str) -> HttpAnswer {
        let headers = [("apikey", key)];
        let answer = http_ask(self.api(), "GET", "/v1/orders", &headers, "").await;
        answer.expect("the API answers")
    }

    /// The address after `what` in the bot's ready line.
    fn bot_address(&self, what: &str) -> Option<SocketAddr> {
        let bot = self.bot.as_ref().expect("the bot runs");
        let (_, rest) = bot.ready().split_once(what)?;
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
        let bot = self.bot.as_ref().map(Program::output);
        self.past_output.clone() + &bot.unwrap_or_default() + &self.api.output()
    }
}

/// Runs `keyward` with these arguments and the token with every role, as an operator does.
fn operator(options: &FrontOptions, arguments: &[&str]) -> Command {
    let mut command = without_settings(text(&Programs::get().keyward));
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

/// Writes a token to a file that other users cannot read.
fn write(file: &Path, token: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).mode(0o600).open(file);
    let written = file.and_then(|mut file| file.write_all(token.as_bytes()));
    written.expect("a token can be written");
}

fn start_api(options: &FrontOptions, token: &Path) -> Program {
    let mut command = without_settings(text(&Programs::get().rest_api));
    command.args(["--listen", "127.0.0.1:0", "--rate", "1000"]);
    for url in urls(&options.for_api) {
        command.arg("--keyward").arg(url);
    }
    command.arg("--token-file").arg(token);
    Program::start("rest_api", command, API_READY)
}

fn urls(addresses: &[SocketAddr]) -> Vec<String> {
    let urls = addresses.iter().map(|address| format!("http://{address}"));
    urls.collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path is text")
}

//! What stands before Keyward: the bot and an API as processes, and a fake Telegram.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::without_settings;
use crate::telegram::{Person, Telegram};
use crate::{HttpAnswer, Program, Programs, http_ask};

/// The bot's line when it is ready, as far as it is always the same.
const BOT_READY: &str = "keyward-bot is ready: ";
const API_READY: &str = "rest_api is ready: http://";

/// Where Keyward is, and what the bot takes besides.
#[derive(Clone, Debug, Default)]
pub struct FrontOptions {
    /// The instances as the bot reaches them.
    pub for_bot: Vec<SocketAddr>,
    /// The instances as the API reaches them; the operator asks the first.
    pub for_api: Vec<SocketAddr>,
    /// The file with a token of every role.
    pub admin_token: PathBuf,
    /// Variables for the bot, besides those that it takes to run.
    pub bot: Vec<(&'static str, String)>,
}

/// The bot, the API and Telegram. Ends when dropped.
pub struct Front {
    bot: Option<Program>,
    api: Program,
    /// Telegram.
    pub telegram: Telegram,
    /// What was said by bots that have ended.
    said: String,
    options: FrontOptions,
    directory: tempfile::TempDir,
}

impl Front {
    /// Makes a token for each, with the rights that it needs and no more, and starts both.
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
            said: String::new(),
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

    /// Kills the bot, as a power cut would.
    pub fn kill_bot(&mut self) {
        let mut bot = self.bot.take().expect("the bot runs");
        bot.kill();
        self.said += &bot.output();
    }

    /// Asks the bot to stop, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    pub fn stop_bot(&mut self) {
        let mut bot = self.bot.take().expect("the bot runs");
        let status = bot.stop();
        let output = bot.output();
        assert!(status.success(), "keyward-bot: {status}\n{output}");
        self.said += &output;
    }

    /// Whether the bot has not ended by itself.
    pub fn bot_runs(&mut self) -> bool {
        self.bot.as_mut().is_some_and(Program::runs)
    }

    /// The bot's token for Keyward.
    pub fn bot_token(&self) -> String {
        let text = std::fs::read_to_string(self.bot_token_file());
        text.expect("the token can be read").trim_end().to_owned()
    }

    /// Where the API serves.
    pub fn api(&self) -> SocketAddr {
        let address = self.api.ready().parse();
        address.expect("the API says its address")
    }

    /// What the API answers to a request with this key.
    pub async fn request(&self, key: &str) -> HttpAnswer {
        let headers = [("apikey", key)];
        let answer = http_ask(self.api(), "GET", "/v1/orders", &headers, "").await;
        answer.expect("the API answers")
    }

    /// The address that follows `what` in the line by which the bot says that it is ready.
    fn bot_address(&self, what: &str) -> Option<SocketAddr> {
        let bot = self.bot.as_ref().expect("the bot runs");
        let (_, rest) = bot.ready().split_once(what)?;
        rest.split(',').next()?.trim().parse().ok()
    }

    /// Where the bot takes updates that are pushed, if it does.
    pub fn bot_webhook(&self) -> Option<SocketAddr> {
        self.bot_address("webhook on ")
    }

    /// What the bot's side port says at `path`.
    pub async fn bot_says(&self, path: &str) -> String {
        let address = self.bot_address("probes on ");
        let address = address.expect("the bot says the address of its side port");
        let answer = http_ask(address, "GET", path, &[], "").await;
        answer.expect("the side port answers").body
    }

    /// The account of a person.
    pub fn account(&self, person: &Person) -> String {
        format!("tg-{}", person.id())
    }

    /// All that the bot and the API have said so far.
    pub fn output(&self) -> String {
        let bot = self.bot.as_ref().map(Program::output);
        self.said.clone() + &bot.unwrap_or_default() + &self.api.output()
    }
}

/// The command `keyward` with these arguments and the token of every role, as an operator types it.
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "keyward token create {name}: {said}"
    );
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("keyward prints JSON");
    let token = answer["token"].as_str();
    token.expect("the answer holds the token").to_owned()
}

/// Writes a token so that others cannot read it.
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

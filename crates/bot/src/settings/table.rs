//! The table of settings: names, defaults and help.

use crate::account::Accounts;

/// One setting: `hide_after` in the file, `--hide-after`, `KEYWARD_BOT_HIDE_AFTER`.
#[derive(Debug)]
pub struct Setting {
    /// The name in the file.
    pub name: &'static str,
    /// What stands for its value in help texts; `None` for a switch.
    pub takes: Option<&'static str>,
    /// What it does, its limits included: a sentence without its full stop.
    pub help: &'static str,
    /// What holds when nothing is given.
    pub default: &'static str,
    /// Where it may be given.
    pub place: Place,
}

/// Where a setting may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everywhere; the variable is the bot's own.
    Bot,
    /// Everywhere; the variable is that of every client of Keyward.
    Client,
    /// As a variable only: flags show in the list of processes, and files are copied.
    VariableOnly,
}

impl Setting {
    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        let prefix = match self.place {
            Place::Bot | Place::VariableOnly => "KEYWARD_BOT_",
            Place::Client => "KEYWARD_",
        };
        format!("{prefix}{}", self.name.to_uppercase())
    }

    /// The flag with its two dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

const fn setting(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        takes: Some(takes),
        help,
        default,
        place: Place::Bot,
    }
}

const fn of_client(setting: Setting) -> Setting {
    Setting {
        place: Place::Client,
        ..setting
    }
}

/// All settings.
pub const TABLE: &[Setting] = &[
    Setting {
        place: Place::VariableOnly,
        ..setting(
            "telegram_token",
            "TOKEN",
            "",
            "The bot's token, as BotFather gives it; this or telegram_token_file is needed",
        )
    },
    setting(
        "telegram_token_file",
        "FILE",
        "",
        "File that holds the bot's token",
    ),
    setting(
        "telegram_api_url",
        "URL",
        "https://api.telegram.org",
        "The Bot API; http:// only to this host, unless insecure = true",
    ),
    of_client(setting(
        "endpoint",
        "URLS",
        "http://127.0.0.1:50051",
        "Keyward: https://HOST:PORT, several separated by commas; http:// only to this host, unless \
         insecure = true",
    )),
    of_client(setting(
        "token_file",
        "FILE",
        "",
        "File that holds the bot's token for Keyward, with the roles `issuer` and `revealer`; read \
         again when it changes",
    )),
    of_client(setting(
        "ca_file",
        "FILE",
        "none",
        "Certificates (PEM) of the authorities that vouch for Keyward, in place of the system's",
    )),
    Setting {
        takes: None,
        ..setting(
            "insecure",
            "",
            "false",
            "Allow http:// to other hosts: keys and tokens cross the network in the clear",
        )
    },
    setting(
        "http_listen",
        "ADDRESS",
        "127.0.0.1:9465",
        "Address and port of /livez, /readyz and /metrics; port 0 takes a free one, `none` switches \
         it off",
    ),
    setting(
        "hide_after",
        "DURATION",
        "10m",
        "After which time a message that shows a key is replaced by the key's hint: 1s to 30days; \
         `none`: not by time",
    ),
    setting(
        "account_template",
        "TEMPLATE",
        Accounts::DEFAULT,
        "The account of a Telegram user: text that holds {user_id} once",
    ),
    setting(
        "slot",
        "NAME",
        "default",
        "Which key of the account is shown: 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    setting(
        "scopes",
        "SCOPES",
        "none",
        "What keys that the bot makes may do, separated by commas; keys that exist stay as they are",
    ),
    setting(
        "reveals_per_hour",
        "NUMBER",
        "30",
        "How often one user is shown a key, from 1 to 100000",
    ),
    setting(
        "revokes_per_hour",
        "NUMBER",
        "10",
        "How many keys one user may revoke, from 1 to 100000",
    ),
    setting(
        "updates_per_minute",
        "NUMBER",
        "120",
        "How many messages and taps of one user are answered, from 1 to 100000; others are dropped",
    ),
    setting(
        "support",
        "CONTACT",
        "none",
        "Whom users are told to write to when something stays broken, such as @example_support",
    ),
    setting(
        "webhook_url",
        "URL",
        "none",
        "Where Telegram reaches this bot, https://HOST/PATH; then updates are pushed, not polled",
    ),
    setting(
        "webhook_listen",
        "ADDRESS",
        "127.0.0.1:8443",
        "Address and port of the webhook, behind something that ends TLS; port 0 takes a free one",
    ),
    setting(
        "webhook_secret_file",
        "FILE",
        "none",
        "File with the secret that Telegram sends with each update: 16 to 256 of A-Z a-z 0-9 _ -",
    ),
    setting(
        "log_format",
        "FORMAT",
        "text",
        "How the log is written to stderr: `text` or `json`; RUST_LOG says what is logged",
    ),
];

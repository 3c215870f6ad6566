//! The `keyward-bot` binary: flags, exit codes, and the subcommands that print the screens and ask
//! a running bot how it is.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use keyward_bot::settings::{DEFAULT_FILE, Inputs, Place, Setting, TABLE};
use keyward_bot::{app, health, log, screens, settings};

/// EX_USAGE: what was asked for cannot be done as it was asked.
const USAGE: u8 = 64;
/// How long a running bot may take to say how it is.
const ASKING: Duration = Duration::from_secs(3);
const ABOUT: &str = "Telegram front end of Keyward: shows users their API key, and replaces it";
const AFTER: &str = "\
Each setting is a flag, a variable, or a key in the file of settings (--hide-after there is \
hide_after); flags beat variables, variables beat the file. The bot's token is no flag: give it as \
KEYWARD_BOT_TELEGRAM_TOKEN, or in a file.

Exit codes: 0 after SIGTERM or SIGINT, 64 for a wrong setting, 1 if it cannot start otherwise.";

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let is_wrong = error.use_stderr();
            // Who closed the output does not want to know.
            let _ = error.print();
            return ExitCode::from(if is_wrong { USAGE } else { 0 });
        }
    };
    match matches.subcommand() {
        Some(("screens", _)) => print_screens(),
        Some(("health", matches)) => ask_health(matches),
        _ => match settings::load(inputs(&matches)) {
            Ok(settings) => run(settings),
            Err(errors) => failed(USAGE, &errors.to_string()),
        },
    }
}

fn inputs(matches: &ArgMatches) -> Inputs {
    Inputs {
        flags: flags(matches),
        config: matches.get_one::<PathBuf>("config").cloned(),
        environment: std::env::vars_os().collect(),
    }
}

fn run(settings: settings::Settings) -> ExitCode {
    let filter = std::env::var("RUST_LOG").ok();
    if let Err(error) = log::init(settings.log_format, filter.as_deref()) {
        return failed(USAGE, &error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        // What hangs in a task that was given up must not keep the process.
        Ok(runtime) => {
            let ended = runtime.block_on(app::run(settings));
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended.map_err(|error| error.to_string())
        }
        Err(error) => Err(format!("the runtime: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

fn failed(code: u8, text: &str) -> ExitCode {
    for line in text.lines() {
        // Who closed stderr does not want to know.
        let _ = writeln!(std::io::stderr().lock(), "keyward-bot: {line}");
    }
    ExitCode::from(code)
}

/// Every screen in every language as JSON, with invented data: for pictures.
fn print_screens() -> ExitCode {
    let hide_after = Some(Duration::from_secs(600));
    let pictures = screens::pictures(&screens::Screens::new(hide_after, None));
    let text = match serde_json::to_string_pretty(&pictures) {
        Ok(text) => text,
        Err(error) => return failed(1, &error.to_string()),
    };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error.to_string()),
    }
}

/// Done when the bot that runs with these settings serves users, failed when it does not.
fn ask_health(matches: &ArgMatches) -> ExitCode {
    let side_port = match settings::side_port(inputs(matches)) {
        Ok(Some(side_port)) if side_port.port() != 0 => side_port,
        Ok(_) => return failed(USAGE, "http_listen names no port that could be asked"),
        Err(errors) => return failed(USAGE, &errors.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = match runtime {
        Ok(runtime) => runtime.block_on(health::ask(side_port, ASKING)),
        Err(error) => Err(format!("the runtime: {error}")),
    };
    match asked {
        Ok(()) => {
            // Who closed the output reads the exit code.
            let _ = writeln!(std::io::stdout().lock(), "ok");
            ExitCode::SUCCESS
        }
        Err(reason) => failed(1, &reason),
    }
}

fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!(
            "File of settings [env: KEYWARD_BOT_CONFIG] [default: ./{DEFAULT_FILE}, if it exists]"
        ));
    let side_port = TABLE.iter().filter(|s| s.name == "http_listen").map(flag);
    let health = Command::new("health")
        .about("Ask the bot that runs with these settings on this host whether users are served")
        .after_help(
            "Exit codes: 0 if they are, 1 if not or after 3 seconds, 64 for a wrong setting.",
        )
        .arg(config.clone())
        .args(side_port);
    let output = Arg::new("output")
        .long("output")
        .value_name("FORMAT")
        .value_parser(["json"])
        .default_value("json")
        .help("How they are printed");
    let screens = Command::new("screens")
        .about("Print every screen in every language, with invented data, and exit")
        .arg(output);
    Command::new("keyward-bot")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER)
        .args_conflicts_with_subcommands(true)
        .arg(config)
        .args(
            TABLE
                .iter()
                .filter(|s| s.place != Place::VariableOnly)
                .map(flag),
        )
        .subcommand(screens)
        .subcommand(health)
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{} [env: {}]{default}", setting.help, setting.variable());
    let flag = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .action(ArgAction::Set)
        .help(help);
    match setting.takes {
        Some(name) => flag.value_name(name),
        None => flag
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}

/// The settings that are given as flags.
fn flags(matches: &ArgMatches) -> Vec<(String, String)> {
    let given = TABLE.iter().filter(|setting| {
        matches!(matches.try_contains_id(setting.name), Ok(true))
            && matches.value_source(setting.name) == Some(ValueSource::CommandLine)
    });
    given
        .filter_map(|setting| {
            let text = matches.get_one::<String>(setting.name)?;
            Some((setting.name.to_owned(), text.clone()))
        })
        .collect()
}

//! The command line. It starts the service; some verbs work on this machine's files or store, the
//! others call the service.

mod args;
mod audit;
mod certificate;
mod client;
mod doctor;
mod export;
mod import;
mod input;
mod keyring;
mod keys;
mod local;
mod manual;
mod output;
mod pages;
mod render;
mod token;
mod top;
mod webhooks;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal as _, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{ArgMatches, FromArgMatches as _};

use keyward_proto::v1::RevokeTokenRequest;

use crate::config::{self, AgentSettings, Effective, Errors, Inputs, Settings};
use args::{AuditCall, Call, ClientArgs, Format, ImportCall, KeyringVerb, TokenCall, Verb};
use client::Service;
use keyward_ops::settings::{Schema as _, given_flags};
use render::{Report, for_people};

pub use args::{AddedKind, ClockCommand, EpochCommand, ExpiredKeys, KeyringCommand, LocalCommand};
pub use local::{Execute, LocalResult, LocalWork};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const NOT_VALID: u8 = 2;
const USAGE: u8 = 64;

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The command line or a setting is wrong.
    Usage(String),
    /// Any other failure.
    Failed(String),
}

/// What a command reads and writes.
struct Console<'a> {
    input: &'a mut dyn Read,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether a person sees stderr as it is written.
    is_terminal: bool,
    /// Whether stdout is a terminal.
    is_screen: bool,
}

/// Runs the command in `arguments`, which begin with the program's name. `execute_local` executes the
/// commands that call no service.
///
/// The exit code is 0 for success, 1 for a failure, 2 if a key is not VALID, and 64 if the command
/// line or a setting is wrong.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    execute_local: &Execute,
) -> ExitCode {
    // The streams are not locked, because the service logs to stderr while this function runs.
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let mut console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
        is_terminal: io::stderr().is_terminal(),
        is_screen: io::stdout().is_terminal(),
    };
    let environment = environment.into_iter().collect();
    ExitCode::from(run_on(&mut console, arguments, environment, execute_local))
}

fn run_on(
    console: &mut Console<'_>,
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(OsString, OsString)>,
    execute_local: &Execute,
) -> u8 {
    let matches = match args::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return show_clap(console, &hide_secrets(error)),
    };
    let (report, format) = match execute(console, &matches, environment, execute_local) {
        Ok(done) => done,
        Err(Failure::Failed(text)) => return print_error(console, &text, FAILED),
        Err(Failure::Usage(text)) => return print_error(console, &text, USAGE),
    };
    let written = console
        .out
        .write_all(report.render(format).as_bytes())
        .and_then(|()| console.out.flush());
    match (written, report.done) {
        (Ok(()), _) => {
            if let Some(note) = report.note {
                let kind = if report.exit == FAILED {
                    "error"
                } else {
                    "note"
                };
                // The exit code is right even if the note cannot be written.
                let _ = writeln!(console.err, "{kind}: {}", for_people(&note));
            }
            report.exit
        }
        // The reader closed the pipe and expects no more output, not even an error.
        (Err(error), None) if error.kind() == ErrorKind::BrokenPipe => FAILED,
        (Err(error), done) => {
            let done = done.map(|done| format!("\n  {done}")).unwrap_or_default();
            let text = format!("cannot write the output: {error}{done}");
            print_error(console, &text, FAILED)
        }
    }
}

/// Hides text in a usage error that may be a key in the wrong place: a surplus argument, and any
/// text longer than a verb or flag.
fn hide_secrets(mut error: clap::Error) -> clap::Error {
    const MAX_SHOWN: usize = 20;
    const HIDDEN: &str = "(not shown)";
    let is_surplus = error.kind() == ClapKind::UnknownArgument;
    let mut kinds = vec![ContextKind::InvalidSubcommand, ContextKind::InvalidValue];
    // In other errors, InvalidArg is the name of a known argument.
    kinds.extend(is_surplus.then_some(ContextKind::InvalidArg));
    for kind in kinds {
        let Some(ContextValue::String(text)) = error.get(kind) else {
            continue;
        };
        if text.len() > MAX_SHOWN || (is_surplus && !text.starts_with('-')) {
            error.insert(kind, ContextValue::String(HIDDEN.to_owned()));
            error.remove(ContextKind::Suggested);
        }
    }
    error
}

/// Prints help or the version as a success, and any other message of clap as a usage error.
fn show_clap(console: &mut Console<'_>, error: &clap::Error) -> u8 {
    let is_success = matches!(
        error.kind(),
        ClapKind::DisplayHelp | ClapKind::DisplayVersion
    );
    let (target, code) = if is_success {
        (&mut *console.out, DONE)
    } else {
        (&mut *console.err, USAGE)
    };
    let text = for_people(&error.render().to_string());
    match write!(target, "{text}").and_then(|()| target.flush()) {
        Ok(()) => code,
        Err(_) => FAILED,
    }
}

fn print_error(console: &mut Console<'_>, text: &str, code: u8) -> u8 {
    // If stderr is closed, the exit code still reports the failure.
    let _ = writeln!(console.err, "error: {}", for_people(text));
    code
}

/// Executes the command. Returns the result and its format.
fn execute(
    console: &mut Console<'_>,
    matches: &ArgMatches,
    environment: Vec<(OsString, OsString)>,
    execute_local: &Execute,
) -> Result<(Report, Format), Failure> {
    let wrong = |error: clap::Error| Failure::Usage(error.render().to_string());
    let verb = match matches.subcommand_name() {
        Some(_) => Verb::from_arg_matches(matches).map_err(wrong)?,
        None => Verb::Local(LocalCommand::Serve),
    };
    let load = || load(matches, &environment);
    let settings = || load().map(|effective| effective.settings).map_err(usage);
    let run_local = |command, settings| local::run(command, settings, execute_local);
    let call = match verb {
        Verb::Completions { shell } => {
            return Ok((manual::completions(shell, console)?, Format::Text));
        }
        Verb::Man { directory } => return Ok((manual::pages(&directory)?, Format::Text)),
        Verb::Top {
            http_endpoint,
            once,
        } => {
            let (endpoint, settings) = (http_endpoint.as_deref(), settings()?);
            let shown = top::run(console, endpoint, once, &settings);
            return Ok((runtime()?.block_on(shown)?, Format::Text));
        }
        Verb::Agent => {
            let work = LocalWork::Agent(Box::new(load_agent(matches, &environment)?));
            return Ok((local::perform(work, execute_local)?, Format::Text));
        }
        Verb::Config { output } => {
            return Ok((output::config(&load().map_err(usage)?), output));
        }
        Verb::Doctor { output } => {
            let report = match load() {
                Ok(effective) => run_local(LocalCommand::Doctor, effective.settings)?,
                Err(errors) => doctor::refused(&errors),
            };
            return Ok((report, output));
        }
        Verb::Local(command) => return Ok((run_local(command, settings()?)?, Format::Text)),
        Verb::Keyring(KeyringVerb::Local(command)) => {
            let command = LocalCommand::Keyring(command);
            return Ok((run_local(command, settings()?)?, Format::Text));
        }
        Verb::Call(call) => call,
        Verb::Keyring(KeyringVerb::Call(call)) => Box::new(Call::Keyring(call)),
    };
    let settings = settings()?;
    let options = ClientArgs::from_arg_matches(innermost(matches)).map_err(wrong)?;
    let context = Context {
        options: &options,
        environment: &environment,
        settings: &settings,
    };
    let report = runtime()?.block_on(execute_call(console, &call, &context))?;
    Ok((report, options.output))
}

/// The arguments of the verb itself.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, verb)) => innermost(verb),
        None => matches,
    }
}

/// What decides how a verb reaches the service.
struct Context<'a> {
    options: &'a ClientArgs,
    environment: &'a [(OsString, OsString)],
    settings: &'a Settings,
}

/// Calls the service. The request is built first, so that usage errors need no service.
async fn execute_call(
    console: &mut Console<'_>,
    call: &Call,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let input = &mut *console.input;
    let service = || Service::new(context);
    let service_of_many = || Service::of_many(context);
    Ok(match call {
        Call::Issue(args) => output::issued(&service()?.call(keys::issue_request(args)).await?),
        Call::Get(args) => {
            let request = keys::get_request(args, input)?;
            output::shown(&service()?.call(request).await?)
        }
        Call::List(args) => pages::list_keys(args, &service()?).await?,
        Call::Revoke(args) => {
            let request = keys::revoke_request(args, input)?;
            let start = keys::now().into();
            let service = match args.account {
                Some(_) => service_of_many()?,
                None => service()?,
            };
            output::revoked(&service.call(request).await?, args, start)
        }
        Call::Update(args) => {
            let request = keys::update_request(args)?;
            output::updated(&service()?.call(request).await?)
        }
        Call::Verify(args) => {
            let request = keys::verify_request(args, input)?;
            let is_token = input::is_token(&request.api_key);
            output::judged(&service()?.call(request).await?, is_token)
        }
        Call::Import(args) => match &args.call {
            Some(ImportCall::Undo { batch_id, reason }) => {
                import::undo(batch_id, reason, &service_of_many()?).await?
            }
            None => import::run(console, args, context).await?,
        },
        Call::Export(args) => export::run(console, args, &service()?).await?,
        Call::Health => {
            client::check_health(context).await?;
            output::healthy()
        }
        Call::Audit(AuditCall::List(args)) => audit::list(args, &service()?).await?,
        Call::Audit(AuditCall::Verify(args)) => audit::verify(args, &service()?).await?,
        Call::Audit(AuditCall::Export(args)) => {
            let service = match args.follow {
                true => Service::persistent(context)?,
                false => service()?,
            };
            audit::export(console, args, &service).await?
        }
        Call::Webhook(call) => webhooks::call(call, &service()?).await?,
        Call::Keyring(call) => keyring::call(call, &service()?).await?,
        Call::Account(call) => keyring::account(call, &service_of_many()?).await?,
        Call::Token(TokenCall::Create(args)) => token::create(args, context).await?,
        Call::Token(TokenCall::List(page)) => pages::list_tokens(page, &service()?).await?,
        Call::Token(TokenCall::Revoke { token_id }) => {
            let token_id = input::id("TOKEN_ID", token_id, "")?;
            let request = RevokeTokenRequest { token_id };
            output::token_revoked(&service()?.call(request).await?)
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the tokio runtime: {error}")))
}

fn usage(errors: Errors) -> Failure {
    Failure::Usage(errors.0.join("\nerror: "))
}

fn load_agent(
    matches: &ArgMatches,
    environment: &[(OsString, OsString)],
) -> Result<AgentSettings, Failure> {
    if matches.args_present() {
        let what = "the flags of an agent come after the verb: keyward agent --listen ADDRESS";
        return Err(Failure::Usage(what.to_owned()));
    }
    let (flags, config) = given_flags::<AgentSettings>(innermost(matches));
    let inputs = Inputs {
        flags,
        config,
        environment: environment.to_vec(),
        default_file: PathBuf::from(AgentSettings::FILE),
    };
    config::load_agent(inputs).map_err(usage)
}

fn load(matches: &ArgMatches, environment: &[(OsString, OsString)]) -> Result<Effective, Errors> {
    let (flags, config) = given_flags::<Settings>(matches);
    let inputs = Inputs {
        flags,
        config,
        environment: environment.to_vec(),
        default_file: PathBuf::from("keyward.toml"),
    };
    config::load(inputs)
}

#[cfg(test)]
mod tests;

//! The command line. It starts the service; some verbs work on this machine's files or store, the
//! others call the service.

mod args;
mod certificate;
mod client;
mod direct;
mod flags;
mod input;
mod keys;
mod output;
mod pages;
mod render;
mod token;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{ArgMatches, FromArgMatches as _};

use crate::config::{self, Effective, Inputs, Settings};
use args::{Call, ClientArgs, TokenVerb, Verb};
use client::Service;
use render::Report;

pub use direct::LocalCommands;

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
}

/// Runs the command in `arguments`, which begin with the program's name. `local` executes the
/// commands that call no service.
///
/// The exit code is 0 for success, 1 for a failure, 2 if a key is not VALID, and 64 if the command
/// line or a setting is wrong.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    local: &dyn LocalCommands,
) -> ExitCode {
    // The streams are not locked, because the service logs to stderr while this function runs.
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let mut console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
    };
    let environment = environment.into_iter().collect();
    ExitCode::from(run_on(&mut console, arguments, environment, local))
}

fn run_on(
    console: &mut Console<'_>,
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(OsString, OsString)>,
    local: &dyn LocalCommands,
) -> u8 {
    let matches = match args::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return show_clap(console, &hide_secrets(error)),
    };
    let (text, note, code) = match execute(console.input, &matches, environment, local) {
        Ok(done) => done,
        Err(Failure::Failed(text)) => return print_error(console, &text, FAILED),
        Err(Failure::Usage(text)) => return print_error(console, &text, USAGE),
    };
    let written = console
        .out
        .write_all(text.as_bytes())
        .and_then(|()| console.out.flush());
    match written {
        Ok(()) => {
            if let Some(note) = note {
                // The command succeeded even if the note cannot be written.
                let _ = writeln!(console.err, "note: {note}");
            }
            code
        }
        // The reader closed the pipe and expects no more output, not even an error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => FAILED,
        Err(error) => print_error(
            console,
            &format!("cannot write the output: {error}"),
            FAILED,
        ),
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
    match write!(target, "{}", error.render()).and_then(|()| target.flush()) {
        Ok(()) => code,
        Err(_) => FAILED,
    }
}

fn print_error(console: &mut Console<'_>, text: &str, code: u8) -> u8 {
    // If stderr is closed, the exit code still reports the failure.
    let _ = writeln!(console.err, "error: {text}");
    code
}

/// Executes the command. Returns the output, a note for stderr, and the exit code.
fn execute(
    input: &mut dyn Read,
    matches: &ArgMatches,
    environment: Vec<(OsString, OsString)>,
    local: &dyn LocalCommands,
) -> Result<(String, Option<String>, u8), Failure> {
    let verb = match matches.subcommand_name() {
        Some(_) => Verb::from_arg_matches(matches)
            .map_err(|error| Failure::Usage(error.render().to_string()))?,
        None => Verb::Serve,
    };
    let effective = load(matches, &environment)?;
    let call = match verb {
        Verb::Serve => {
            local.serve(effective.settings).map_err(Failure::Failed)?;
            return Ok((String::new(), None, DONE));
        }
        Verb::Config(args) => {
            return Ok((output::config(&effective, args.output), None, DONE));
        }
        Verb::Direct(verb) => {
            let text = direct::run(&verb, &effective.settings, local)?;
            return Ok((text, None, DONE));
        }
        Verb::Call(call) => call,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the tokio runtime: {error}")))?;
    let context = Context {
        options: call.client_args(),
        environment: &environment,
        settings: &effective.settings,
    };
    let report = runtime.block_on(execute_call(input, &call, &context))?;
    let text = report.render(context.options.output);
    Ok((text, report.note, report.exit))
}

/// What decides how a verb reaches the service.
struct Context<'a> {
    options: &'a ClientArgs,
    environment: &'a [(OsString, OsString)],
    settings: &'a Settings,
}

/// Calls the service. The request is built first, so that usage errors need no service.
async fn execute_call(
    input: &mut dyn Read,
    call: &Call,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let service = || Service::new(context);
    Ok(match call {
        Call::Issue(args) => {
            let request = keys::issue_request(args)?;
            output::issued(&service()?.call(request).await?)
        }
        Call::Get(args) => {
            let request = keys::get_request(args, input)?;
            output::shown(&service()?.call(request).await?)
        }
        Call::List(args) => pages::list_keys(args, &service()?).await?,
        Call::Revoke(args) => {
            let request = keys::revoke_request(args, input)?;
            let response = service()?.call(request).await?;
            output::revoked(&response, args.replace)
        }
        Call::Update(args) => {
            let request = keys::update_request(args)?;
            output::updated(&service()?.call(request).await?)
        }
        Call::Verify(args) => {
            let request = keys::verify_request(args, input)?;
            output::judged(&service()?.call(request).await?)
        }
        Call::Health(_) => {
            client::check_health(context).await?;
            output::healthy()
        }
        Call::Token(args) => match &args.verb {
            TokenVerb::Create(args) => token::create(args, context).await?,
            TokenVerb::List(args) => pages::list_tokens(args, &service()?).await?,
            TokenVerb::Revoke(args) => {
                let request = token::revoke_request(args)?;
                output::token_revoked(&service()?.call(request).await?)
            }
        },
    })
}

fn load(matches: &ArgMatches, environment: &[(OsString, OsString)]) -> Result<Effective, Failure> {
    let (flags, config) = flags::given(matches);
    let inputs = Inputs {
        flags,
        config,
        environment: environment.to_vec(),
        default_file: PathBuf::from("keyward.toml"),
    };
    config::load(inputs).map_err(|errors| Failure::Usage(errors.0.join("\nerror: ")))
}

#[cfg(test)]
mod tests;

//! The command line: it starts the service, some verbs go straight to the store, and the others are
//! a client of the service.

mod args;
mod client;
mod direct;
mod flags;
mod health;
mod input;
mod keys;
mod output;
mod render;
mod token;
mod trust;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{ArgMatches, FromArgMatches as _};

use crate::config::{self, Effective, Inputs, Settings};
use args::{Call, ClientArgs, TokenVerb, Verb};
use client::Client;
use render::Report;

pub use direct::Operations;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const NOT_VALID: u8 = 2;
const USAGE: u8 = 64;

/// Why a command ends without having done its work.
#[derive(Debug)]
enum Failure {
    /// The command line or a setting is wrong.
    Usage(String),
    /// The work failed.
    Failed(String),
}

/// What a command reads and writes.
struct Console<'a> {
    input: &'a mut dyn Read,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

/// Runs the command that `arguments` (the program's name first) and `environment` ask for.
/// `operations` do what no service is called for. The exit code is 0 when the work is done, 1 when it failed, 2 when a key was
/// judged and is not VALID, 64 when the command line or a setting is wrong.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    operations: &dyn Operations,
) -> ExitCode {
    // Not locked: the service writes its log to stderr while this function is still under way.
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let mut console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
    };
    let environment = environment.into_iter().collect();
    ExitCode::from(run_on(&mut console, arguments, environment, operations))
}

fn run_on(
    console: &mut Console<'_>,
    arguments: impl IntoIterator<Item = OsString>,
    environment: Vec<(OsString, OsString)>,
    operations: &dyn Operations,
) -> u8 {
    let matches = match args::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return show_clap(console, &discreet(error)),
    };
    let (text, note, code) = match execute(console.input, &matches, environment, operations) {
        Ok(done) => done,
        Err(Failure::Failed(text)) => return complain(console, &text, FAILED),
        Err(Failure::Usage(text)) => return complain(console, &text, USAGE),
    };
    let written = console
        .out
        .write_all(text.as_bytes())
        .and_then(|()| console.out.flush());
    match written {
        Ok(()) => {
            if let Some(note) = note {
                // The work is done, whoever hears of it.
                let _ = writeln!(console.err, "note: {note}");
            }
            code
        }
        // Whoever read the output went away and wants no more, not even an error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => FAILED,
        Err(error) => complain(
            console,
            &format!("the output cannot be written: {error}"),
            FAILED,
        ),
    }
}

/// Takes out of a usage error what may be a key that was pasted in the wrong place: a surplus
/// argument, and whatever is longer than any verb or flag.
fn discreet(mut error: clap::Error) -> clap::Error {
    const LONGEST: usize = 20;
    const HIDDEN: &str = "(not shown)";
    let surplus = error.kind() == ClapKind::UnknownArgument;
    let mut kinds = vec![ContextKind::InvalidSubcommand, ContextKind::InvalidValue];
    // In other errors it is the name of an argument that is known.
    kinds.extend(surplus.then_some(ContextKind::InvalidArg));
    for kind in kinds {
        let Some(ContextValue::String(text)) = error.get(kind) else {
            continue;
        };
        if text.len() > LONGEST || (surplus && !text.starts_with('-')) {
            error.insert(kind, ContextValue::String(HIDDEN.to_owned()));
            error.remove(ContextKind::Suggested);
        }
    }
    error
}

/// Help and version are done work; all else that clap says is a usage error.
fn show_clap(console: &mut Console<'_>, error: &clap::Error) -> u8 {
    let is_answer = matches!(
        error.kind(),
        ClapKind::DisplayHelp | ClapKind::DisplayVersion
    );
    let (target, code) = if is_answer {
        (&mut *console.out, DONE)
    } else {
        (&mut *console.err, USAGE)
    };
    match write!(target, "{}", error.render()).and_then(|()| target.flush()) {
        Ok(()) => code,
        Err(_) => FAILED,
    }
}

fn complain(console: &mut Console<'_>, text: &str, code: u8) -> u8 {
    // When stderr is gone too, the exit code is all that can be said.
    let _ = writeln!(console.err, "error: {text}");
    code
}

/// Does the work; answers what to print, what to note beside it, and the exit code.
fn execute(
    input: &mut dyn Read,
    matches: &ArgMatches,
    environment: Vec<(OsString, OsString)>,
    operations: &dyn Operations,
) -> Result<(String, Option<String>, u8), Failure> {
    let verb = match matches.subcommand_name() {
        Some(_) => Verb::from_arg_matches(matches)
            .map_err(|error| Failure::Usage(error.render().to_string()))?,
        None => Verb::Serve,
    };
    let effective = load(matches, &environment)?;
    let call = match verb {
        Verb::Serve => {
            let served = operations
                .serve(effective.settings)
                .map_err(Failure::Failed);
            return served.map(|()| (String::new(), None, DONE));
        }
        Verb::Config(args) => {
            return Ok((output::config(&effective, args.output), None, DONE));
        }
        Verb::Direct(verb) => {
            let text = direct::run(&verb, &effective.settings, operations)?;
            return Ok((text, None, DONE));
        }
        Verb::Call(call) => call,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    let reach = Reach {
        options: call.client_args(),
        environment: &environment,
        settings: &effective.settings,
    };
    let report = runtime.block_on(answer(input, &call, &reach))?;
    let text = report.render(reach.options.output);
    Ok((text, report.note, report.exit))
}

/// All that is needed to reach the service.
struct Reach<'a> {
    options: &'a ClientArgs,
    environment: &'a [(OsString, OsString)],
    settings: &'a Settings,
}

/// Calls the service. The request is put together first, so that a usage error needs no service.
async fn answer(input: &mut dyn Read, call: &Call, reach: &Reach<'_>) -> Result<Report, Failure> {
    match call {
        Call::Issue(args) => {
            let request = keys::issue_request(args)?;
            Client::connect(reach).await?.issue(request).await
        }
        Call::Get(args) => {
            let request = keys::get_request(args, input)?;
            Client::connect(reach).await?.get(request).await
        }
        Call::List(args) => Client::connect(reach).await?.list(args).await,
        Call::Revoke(args) => {
            let request = keys::revoke_request(args, input)?;
            Client::connect(reach).await?.revoke(request).await
        }
        Call::Update(args) => {
            let request = keys::update_request(args)?;
            Client::connect(reach).await?.update(request).await
        }
        Call::Verify(args) => {
            let request = keys::verify_request(args, input)?;
            Client::connect(reach).await?.verify(request).await
        }
        Call::Health(_) => health::ask(reach).await,
        Call::Token(args) => match &args.verb {
            TokenVerb::Create(args) => token::create(args, reach).await,
            TokenVerb::List(args) => Client::connect(reach).await?.list_tokens(args).await,
            TokenVerb::Revoke(args) => {
                let request = token::revoke_request(args)?;
                Client::connect(reach).await?.revoke_token(request).await
            }
        },
    }
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

//! Runs the commands of a document in order and compares their output.
//!
//! Ids, secrets and times differ from run to run. Where the document shows one, the run must print
//! one too, and the same one wherever the document repeats it. Commands run with the ids and
//! secrets of the run, in place of those in the document.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use keyward_testkit::{
    AgentProcess, PATIENCE, Process, Program, start_api, wait_until, without_settings,
};
use regex::Regex;

use super::shell::Shell;
use super::{BINARY, updating};

/// The commands that start the service.
const STARTS: [&str; 2] = ["cargo run --release", "keyward serve"];
/// The command that starts the example of an API, before its options.
const STARTS_API: &str =
    "cargo run --example rest_api -- --keyward http://127.0.0.1:50051 --token-file ";
/// The command that starts an agent, before its options.
const STARTS_AGENT: &str = "keyward agent ";
/// The address of its side port in the documents.
const AGENT_SIDE: &str = "127.0.0.1:9466";
/// The addresses of the service and of the API in the documents; the test's take free ports.
const ADDRESSES: [&str; 4] = [
    "127.0.0.1:50051",
    "127.0.0.1:50080",
    "127.0.0.1:9464",
    "127.0.0.1:8080",
];

/// One piece of a document.
enum Piece {
    /// Text that stays as it is.
    Text(String),
    /// A command, and its output in the document.
    Command(String, String),
    /// A file of the directory: its name and its text.
    File(String, String),
}

pub(super) struct Transcript<'d> {
    document: &'d str,
    pieces: Vec<Piece>,
}

impl<'d> Transcript<'d> {
    pub(super) fn of(document: &'d str, text: &str) -> Self {
        let mut pieces = vec![Piece::Text(String::new())];
        let mut block = String::new();
        for line in text.split_inclusive('\n') {
            let fence = line.strip_prefix("```").map(str::trim_end);
            match fence {
                Some("") if !block.is_empty() => block.clear(),
                Some(opens) => opens.clone_into(&mut block),
                None if block == "console" => match line.strip_prefix("$ ") {
                    Some(command) => {
                        pieces.push(Piece::Command(command.trim_end().to_owned(), String::new()));
                    }
                    None => match pieces.last_mut() {
                        Some(Piece::Command(_, output)) => output.push_str(line),
                        _ => panic!("a console block opens without a command: {line}"),
                    },
                },
                None => {
                    if let Some((_, name)) = block.split_once(' ') {
                        match pieces.last_mut() {
                            Some(Piece::File(file, text)) if file == name => text.push_str(line),
                            _ => pieces.push(Piece::File(name.to_owned(), line.to_owned())),
                        }
                        continue;
                    }
                }
            }
            if fence.is_some() || block != "console" {
                match pieces.last_mut() {
                    Some(Piece::Text(text)) => text.push_str(line),
                    _ => pieces.push(Piece::Text(line.to_owned())),
                }
            }
        }
        Self { document, pieces }
    }

    /// The document as it should be: unchanged, if the output differs only in ids, secrets and
    /// times; otherwise completely as one run printed it.
    pub(super) fn run(self) -> String {
        self.run_once(false)
            .or_else(|| self.run_once(true))
            .unwrap_or_default()
    }

    /// `None` if the output differs and `rewrite` is not set.
    fn run_once(&self, rewrite: bool) -> Option<String> {
        let mut run = Run::new();
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::File(name, piece) => {
                    std::fs::write(run.directory.path().join(name), run.localised(piece)).unwrap();
                    text.push_str(piece);
                }
                Piece::Command(command, shown) => {
                    let printed = run.execute(command);
                    let fits = run.compare(shown, &printed);
                    if fits && !rewrite {
                        let _ = write!(text, "$ {command}\n{shown}");
                        continue;
                    }
                    assert!(
                        updating(),
                        "$ {command}\n{} shows\n{shown}\nand the run printed\n{printed}",
                        self.document
                    );
                    if !rewrite {
                        return None;
                    }
                    let command = run.in_this_run(command);
                    let _ = write!(text, "$ {command}\n{printed}");
                }
            }
        }
        Some(text)
    }
}

struct Run {
    directory: tempfile::TempDir,
    shell: Shell,
    service: Option<Process>,
    api: Option<Program>,
    agent: Option<AgentProcess>,
    /// Each id, secret and time of the document, with the run's own.
    same: HashMap<String, String>,
    volatile: Regex,
}

impl Run {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shell = Shell::start(directory.path());
        let volatile = Regex::new(
            r"\bkwt?_[0-9A-Za-z]{49}\b|\bkwt?_[0-9A-Za-z]{4}\b|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
        )
        .unwrap();
        Self {
            directory,
            shell,
            service: None,
            api: None,
            agent: None,
            same: HashMap::new(),
            volatile,
        }
    }

    /// Each address of the document, with the run's own.
    fn addresses(&self) -> impl Iterator<Item = (&'static str, String)> {
        let service = self.service.iter();
        let own =
            service.flat_map(|service| [Some(service.grpc), service.rest, Some(service.http)]);
        let api = self.api.iter().map(|api| api.ready().parse().ok());
        let own = own.chain(api);
        let own = own.map(|address: Option<SocketAddr>| address.map(|address| address.to_string()));
        let pairs = ADDRESSES.into_iter().zip(own.collect::<Vec<_>>());
        let side = self.agent.iter().map(|agent| agent.side.to_string());
        let side = side.map(|side| (AGENT_SIDE, Some(side)));
        pairs
            .chain(side)
            .filter_map(|(shown, own)| Some((shown, own?)))
    }

    /// The document's text with this run's addresses.
    fn localised(&self, text: &str) -> String {
        let pairs = self.addresses();
        let localise = |text: String, (shown, own): (&str, String)| text.replace(shown, &own);
        pairs.fold(text.to_owned(), localise)
    }

    /// The command with this run's ids and secrets.
    fn in_this_run(&self, command: &str) -> String {
        let command = self
            .volatile
            .replace_all(command, |found: &regex::Captures<'_>| {
                let known = self.same.get(&found[0]);
                known
                    .unwrap_or_else(|| panic!("no earlier output contains {}", &found[0]))
                    .clone()
            });
        command.into_owned()
    }

    fn execute(&mut self, command: &str) -> String {
        if STARTS.contains(&command) {
            return self.start();
        }
        if let Some(file) = command.strip_prefix(STARTS_API) {
            return self.start_api(file);
        }
        if let Some(options) = command.strip_prefix(STARTS_AGENT) {
            return self.start_agent(options);
        }
        let command = self.localised(&self.in_this_run(command));
        let printed = self.shell.execute(&command);
        self.as_documented(&printed)
    }

    /// Starts the service as the command does, but on free ports.
    fn start(&mut self) -> String {
        let data = self.directory.path().join("keyward-data");
        let mut command = without_settings(BINARY);
        command
            .env_remove("RUST_LOG")
            .current_dir(self.directory.path())
            .env("KEYWARD_LISTEN", "127.0.0.1:0")
            // A slow machine prints the same.
            .env("KEYWARD_USE_INTERVAL", "1h")
            .env("KEYWARD_REST_LISTEN", "127.0.0.1:0")
            .env("KEYWARD_HTTP_LISTEN", "127.0.0.1:0");
        let service = Process::start(command, &data);
        self.shell
            .execute(&format!("export KEYWARD_ENDPOINT=http://{}", service.grpc));
        // The last line of the log and the line `keyward is ready` may arrive in either order.
        wait_until("the start is logged", PATIENCE, || {
            let output = service.output();
            output.contains("fresh: serving") && output.contains("keyward is ready")
        });
        let printed = service.output();
        self.service = Some(service);
        let (mut log, ready): (Vec<_>, Vec<_>) = printed
            .lines()
            .partition(|line| !line.starts_with("keyward is ready"));
        log.extend(ready);
        self.as_documented(&(log.join("\n") + "\n"))
    }

    /// Starts the API as the command does, but on a free port.
    fn start_api(&mut self, token_file: &str) -> String {
        let service = self.service.as_ref().expect("the service was started");
        let url = format!("http://{}", service.grpc);
        let api = start_api(&[url], &self.directory.path().join(token_file), &[]);
        let ready = format!("rest_api is ready: http://{}\n", api.ready());
        self.api = Some(api);
        self.as_documented(&ready)
    }

    /// Starts an agent as the command does, but with its side port on a free port.
    fn start_agent(&mut self, options: &str) -> String {
        let mut command = without_settings(BINARY);
        command
            .env_remove("RUST_LOG")
            .current_dir(self.directory.path())
            .arg("agent")
            .args(self.localised(options).split(' '))
            .args(["--side-listen", "127.0.0.1:0"]);
        let agent = AgentProcess::start(command);
        let printed = agent.output();
        self.agent = Some(agent);
        self.as_documented(&printed)
    }

    fn as_documented(&self, printed: &str) -> String {
        let pairs = self.addresses();
        let document = |text: String, (shown, own): (&str, String)| text.replace(&own, shown);
        pairs.fold(printed.to_owned(), document)
    }

    /// Whether the document's output differs only in ids, secrets and times. Records which of them
    /// stands for which of this run.
    fn compare(&mut self, shown: &str, printed: &str) -> bool {
        // Columns are as wide as what stands in them.
        let wide = Regex::new(" {2,}").unwrap();
        let stencil = |text: &str| {
            let text = self.volatile.replace_all(text, "*").into_owned();
            let lines = text
                .lines()
                .map(|line| wide.replace_all(line.trim_end(), "  ") + "\n");
            lines.collect::<String>()
        };
        let finds = |text: &str| {
            let found = self.volatile.find_iter(text);
            found
                .map(|found| found.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        let (theirs, ours) = (finds(shown), finds(printed));
        let known = |(their, our): (&String, &String)| {
            self.same.get(their).is_none_or(|known| known == our)
        };
        let fits = stencil(shown) == stencil(printed) && theirs.iter().zip(&ours).all(known);
        self.same.extend(theirs.into_iter().zip(ours));
        fits
    }
}

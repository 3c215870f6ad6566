//! The verb `import`: reads a file of any size, sends its keys in calls of which some are in flight, and
//! reports what happened to each line in order.

mod fields;
mod records;
mod report;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use keyward_proto::v1::{ImportKey, ImportKeysRequest, UndoImportRequest};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::client::Service;
use super::render::Report;
use super::{Console, Context, Failure, args, input, output};
use records::{Record, Records};
use report::Reporter;

/// The most keys in one call. While it writes them, other changes wait.
const KEYS: usize = 200;
/// The bytes of keys after which a call is full. With the largest record, it stays below 1 MiB.
const BYTES: usize = 512 << 10;
/// The most lines of one call, those included that are not sent.
const LINES: usize = 10_000;
/// The calls in flight.
const CALLS: usize = 4;

/// What is known of a line before the service is asked.
enum Line {
    /// In a dry run with its slot: the service sees only the lines of one call.
    Sent(Option<Fingerprint>),
    Bad(String),
    /// An earlier line has the same key.
    Duplicate(u64),
}

/// Some lines of the file, and the keys among them.
#[derive(Default)]
struct Chunk {
    lines: Vec<(u64, Line)>,
    keys: Vec<ImportKey>,
}

/// Cuts a file into chunks.
struct Chunks {
    records: Records,
    dry_run: bool,
    /// The line of each key so far.
    known: HashMap<Fingerprint, u64>,
    is_done: bool,
}

impl Iterator for Chunks {
    type Item = Result<Chunk, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let (mut chunk, mut bytes) = (Chunk::default(), 0);
        while chunk.keys.len() < KEYS && bytes < BYTES && chunk.lines.len() < LINES {
            let Record { line, key } = match self.records.next() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.is_done = true;
                    break;
                }
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            };
            let known = match key {
                Err(reason) => Line::Bad(reason),
                Ok(key) => match self.known.entry(of_key(&key)) {
                    Entry::Occupied(first) => Line::Duplicate(*first.get()),
                    Entry::Vacant(free) => {
                        free.insert(line);
                        bytes += key.encoded_len();
                        let slot = self.dry_run.then(|| of_slot(&key));
                        chunk.keys.push(key);
                        Line::Sent(slot)
                    }
                },
            };
            chunk.lines.push((line, known));
        }
        (!chunk.lines.is_empty()).then_some(Ok(chunk))
    }
}

/// A part of a hash, which takes little memory.
type Fingerprint = [u8; 16];

/// Distinguishes keys by what is given of them.
fn of_key(key: &ImportKey) -> Fingerprint {
    let scheme = key.digest_scheme.as_bytes();
    fingerprint([key.api_key.as_bytes(), scheme, &key.digest])
}

fn of_slot(key: &ImportKey) -> Fingerprint {
    let name = match key.name.as_str() {
        "" => "default",
        name => name,
    };
    fingerprint([key.account_id.as_bytes(), name.as_bytes(), b""])
}

fn fingerprint(parts: [&[u8]; 3]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    first
}

pub(super) async fn run(
    console: &mut Console<'_>,
    args: &args::Import,
    context: &Context<'_>,
) -> Result<Report, Failure> {
    let batch_id = match &args.batch {
        Some(batch) => input::id("BATCH_ID", batch, "")?,
        None => new_id(),
    };
    let file = open(args.file.as_deref().unwrap_or(Path::new("-")))?;
    let records = Records::new(file, args.format).map_err(Failure::Failed)?;
    let service = Service::persistent(context)?;
    let mut reporter = Reporter::new(console.err, console.is_terminal, args, &batch_id)?;
    let mut chunks = read(records, args.dry_run);
    let chunks = stream::poll_fn(|context| chunks.poll_recv(context));
    let send = async |chunk: Result<Chunk, String>| {
        let mut chunk = chunk.map_err(Failure::Failed)?;
        let request = ImportKeysRequest {
            batch_id: batch_id.clone(),
            keys: std::mem::take(&mut chunk.keys),
            dry_run: args.dry_run,
        };
        let results = match request.keys.is_empty() {
            true => Vec::new(),
            false => service.call(request).await?.results,
        };
        Ok((chunk.lines, results))
    };
    let mut answers = chunks.map(send).buffered(CALLS);
    loop {
        match answers.try_next().await {
            Ok(Some((lines, results))) => reporter.add(&lines, results)?,
            Ok(None) => return Ok(reporter.summary()),
            Err(failure) => return Err(reporter.interrupted(failure)),
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path);
    let file = file.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    Ok(Box::new(file))
}

/// Reads the file in a thread of its own: a pipe that stalls must not stall the calls in flight. The
/// thread ends with the file or with the process.
fn read(records: Records, dry_run: bool) -> mpsc::Receiver<Result<Chunk, String>> {
    let (sender, receiver) = mpsc::channel(1);
    let chunks = Chunks {
        records,
        dry_run,
        known: HashMap::new(),
        is_done: false,
    };
    std::thread::spawn(move || {
        for chunk in chunks {
            if sender.blocking_send(chunk).is_err() {
                break;
            }
        }
    });
    receiver
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command uses the clock and the randomness of its machine"
)]
fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

pub(super) async fn undo(
    batch_id: &str,
    reason: &str,
    service: &Service,
) -> Result<Report, Failure> {
    let request = UndoImportRequest {
        batch_id: input::id("BATCH_ID", batch_id, "")?,
        reason: reason.to_owned(),
    };
    Ok(output::undone(&service.call(request).await?))
}

//! What an import tells: each line that was not imported, the progress, and the summary.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};

use keyward_proto::v1::{ImportOutcome, ImportResult};
use serde_json::{Value, json};

use super::super::render::{Fields, Report, enum_name, for_people};
use super::super::{DONE, FAILED, Failure, args};
use super::{Fingerprint, Line};

/// Counts the lines and tells about them.
pub(super) struct Reporter<'c> {
    err: &'c mut dyn Write,
    is_terminal: bool,
    report: Option<BufWriter<File>>,
    batch_id: String,
    dry_run: bool,
    /// Whether the batch is new: what stands in it already, an earlier attempt of a call has imported.
    is_new: bool,
    lines: u64,
    imported: u64,
    already_there: u64,
    duplicates: u64,
    bad: u64,
    /// The lines that a dry run would import, by their slots.
    slots: HashMap<Fingerprint, u64>,
    /// The last line of which the outcome is known.
    last: u64,
}

impl<'c> Reporter<'c> {
    pub(super) fn new(
        err: &'c mut dyn Write,
        is_terminal: bool,
        args: &args::Import,
        batch_id: &str,
    ) -> Result<Self, Failure> {
        let report = match &args.report {
            Some(path) => {
                let file = File::create(path);
                let failed = |error| Failure::Failed(format!("{}: {error}", path.display()));
                Some(BufWriter::new(file.map_err(failed)?))
            }
            None => None,
        };
        let begin = match args.dry_run {
            true => "a dry run: nothing is changed".to_owned(),
            false => format!("import {batch_id}; to undo it: keyward import undo {batch_id}"),
        };
        // The summary names the batch as well.
        let _ = writeln!(err, "{begin}");
        Ok(Self {
            err,
            is_terminal,
            report,
            batch_id: batch_id.to_owned(),
            dry_run: args.dry_run,
            is_new: args.batch.is_none(),
            lines: 0,
            imported: 0,
            already_there: 0,
            duplicates: 0,
            bad: 0,
            slots: HashMap::new(),
            last: 0,
        })
    }

    /// Adds lines in the order of the file, with the results of those that were sent.
    pub(super) fn add(
        &mut self,
        lines: &[(u64, Line)],
        results: Vec<ImportResult>,
    ) -> Result<(), Failure> {
        let sent = lines
            .iter()
            .filter(|(_, line)| matches!(line, Line::Sent(_)));
        if sent.count() != results.len() {
            let fault = "the service did not answer for each key; is it another version?";
            return Err(Failure::Failed(fault.to_owned()));
        }
        let mut results = results.into_iter();
        for (number, line) in lines {
            self.last = *number;
            self.lines += 1;
            match line {
                Line::Bad(reason) => self.bad_line(*number, "", reason)?,
                Line::Duplicate(of) => {
                    self.duplicates += 1;
                    self.tell(
                        *number,
                        &format!("has the key of line {of}"),
                        || json!({"outcome": "DUPLICATE", "of_line": of}),
                    )?;
                }
                Line::Sent(slot) => {
                    let result = results.next().unwrap_or_default();
                    self.answered(*number, *slot, &result)?;
                }
            }
        }
        if self.is_terminal {
            // Overwrites itself.
            let _ = write!(self.err, "\r{}", self.progress());
        }
        Ok(())
    }

    fn answered(
        &mut self,
        line: u64,
        slot: Option<Fingerprint>,
        result: &ImportResult,
    ) -> Result<(), Failure> {
        let outcome = result.outcome();
        match outcome {
            ImportOutcome::Imported => {
                let first = slot.map_or(line, |slot| *self.slots.entry(slot).or_insert(line));
                if first != line {
                    let reason = format!("the slot has the key of line {first}; use another name");
                    return self.bad_line(line, "name", &reason);
                }
                self.imported += 1;
            }
            ImportOutcome::AlreadyThere if self.is_new && result.same_batch => self.imported += 1,
            ImportOutcome::AlreadyThere => self.already_there += 1,
            ImportOutcome::Duplicate => self.duplicates += 1,
            ImportOutcome::Bad | ImportOutcome::Unspecified => {
                return self.bad_line(line, &result.field, &result.description);
            }
        }
        let name = enum_name(Ok::<_, ()>(outcome.as_str_name()), "IMPORT_OUTCOME_");
        self.record(line, || json!({"outcome": name, "key_id": result.key_id}))
    }

    fn bad_line(&mut self, line: u64, field: &str, reason: &str) -> Result<(), Failure> {
        self.bad += 1;
        let text = match field {
            "" => reason.to_owned(),
            _ => format!("{field}: {reason}"),
        };
        self.tell(line, &text, || json!({"outcome": "BAD", "reason": text}))
    }

    /// Tells about a line that was not imported.
    fn tell(
        &mut self,
        line: u64,
        text: &str,
        record: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        if self.report.is_none() {
            let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
            let _ = writeln!(self.err, "{clear}line {line}: {}", for_people(text));
        }
        self.record(line, record)
    }

    /// Writes a line of the report.
    fn record(&mut self, line: u64, record: impl FnOnce() -> Value) -> Result<(), Failure> {
        let Some(report) = &mut self.report else {
            return Ok(());
        };
        let mut record = record();
        record["line"] = line.into();
        let written = writeln!(report, "{record}");
        written.map_err(|error| Failure::Failed(format!("cannot write the report: {error}")))
    }

    fn progress(&self) -> String {
        format!(
            "{} lines: {} imported, {} already there, {} duplicates, {} bad",
            self.lines, self.imported, self.already_there, self.duplicates, self.bad
        )
    }

    pub(super) fn summary(mut self) -> Report {
        self.end_progress();
        let batch_id = match self.dry_run {
            true => Value::Null,
            false => json!(self.batch_id),
        };
        let fields: Fields = vec![
            ("batch_id", batch_id),
            ("lines", json!(self.lines)),
            ("imported", json!(self.imported)),
            ("already_there", json!(self.already_there)),
            ("duplicates", json!(self.duplicates)),
            ("bad", json!(self.bad)),
        ];
        let note = match self.report.take().map(|mut report| report.flush()) {
            Some(Err(error)) => Some(format!("cannot write the report: {error}")),
            _ if self.bad > 0 => {
                Some("some lines are bad; correct and import them again".to_owned())
            }
            _ => None,
        };
        Report {
            exit: if note.is_some() { FAILED } else { DONE },
            note,
            done: Some(self.progress()),
            ..Report::default()
                .json("dry_run", json!(self.dry_run))
                .fields(fields)
        }
    }

    /// The failure of a call, with the state so far.
    pub(super) fn interrupted(mut self, failure: Failure) -> Failure {
        self.end_progress();
        let state = format!(
            "\n  up to line {}: {}\n  repeat the command: what is imported stays as it is",
            self.last,
            self.progress()
        );
        match failure {
            Failure::Usage(text) => Failure::Usage(text + &state),
            Failure::Failed(text) => Failure::Failed(text + &state),
        }
    }

    fn end_progress(&mut self) {
        if self.is_terminal && self.lines > 0 {
            let _ = writeln!(self.err);
        }
    }
}

//! Compares a history with the promise. An unreadable history does not pass.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::report::{Fault, Report, Violation};
use super::{Event, is_verdict};

/// Why a history cannot be checked.
#[derive(Debug)]
pub struct Unreadable(String);

impl Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

/// The lifetime of a key: when its end was requested, and from when on it is promised.
#[derive(Clone, Copy, Default)]
struct Life {
    dying: Option<u64>,
    dead: Option<u64>,
}

/// Reads the history at `path` and checks it.
///
/// # Errors
///
/// The file is unreadable, a line is not an event, or a key died without being issued or revoked.
/// A history without a Verify is also refused, because it proves nothing.
pub fn check(path: &Path) -> Result<Report, Unreadable> {
    // Two passes, because the death of a key can follow a Verify that it affects.
    let mut lives = HashMap::new();
    each(path, |event| live(&mut lives, event))?;
    for (key, life) in &lives {
        if life.dead.is_some() && life.dying.is_none() {
            return Err(Unreadable(format!(
                "{}: the key {key} is dead without a request to end it",
                path.display()
            )));
        }
    }
    let mut report = Report {
        keys: lives.len(),
        dead: lives.values().filter(|life| life.dead.is_some()).count(),
        ..Report::default()
    };
    each(path, |event| judge(&mut report, &lives, event))?;
    if report.total.verifies == 0 {
        return Err(Unreadable(format!("{}: holds no verify", path.display())));
    }
    Ok(report)
}

/// Reads the events in the order of the file.
fn each(path: &Path, mut take: impl FnMut(Event) -> Result<(), String>) -> Result<(), Unreadable> {
    let wrong = |error: &dyn Display| Unreadable(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| wrong(&error))?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| wrong(&error))?;
        let event = serde_json::from_str(&line).map_err(|error| error.to_string());
        event.and_then(&mut take).map_err(|error| {
            let number = index + 1;
            Unreadable(format!("{}:{number}: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// Records when a key was issued, and the earliest times of its dying and its death.
fn live(lives: &mut HashMap<String, Life>, event: Event) -> Result<(), String> {
    let first = |known: Option<u64>, at| Some(known.map_or(at, |known: u64| known.min(at)));
    match event {
        Event::Issued { key, .. } => match lives.insert(key, Life::default()) {
            None => Ok(()),
            Some(_) => Err("a key is issued twice".to_owned()),
        },
        Event::Dying { key, at } => {
            let life = lives.get_mut(&key).ok_or_else(|| unknown(&key))?;
            life.dying = first(life.dying, at);
            Ok(())
        }
        Event::Dead { key, at } => {
            let life = lives.get_mut(&key).ok_or_else(|| unknown(&key))?;
            life.dead = first(life.dead, at);
            Ok(())
        }
        Event::Verify { .. } => Ok(()),
    }
}

fn unknown(key: &str) -> String {
    format!("the key {key} was never issued")
}

fn judge(report: &mut Report, lives: &HashMap<String, Life>, event: Event) -> Result<(), String> {
    let Event::Verify {
        key,
        instance,
        began,
        ended,
        verdict,
    } = event
    else {
        return Ok(());
    };
    let life = *lives.get(&key).ok_or_else(|| unknown(&key))?;
    if let Some(name) = verdict.as_deref().filter(|name| !is_verdict(name)) {
        return Err(format!("{name} is no verdict"));
    }
    if ended < began {
        return Err("a call ended before it began".to_owned());
    }
    let late = life.dead.and_then(|dead| began.checked_sub(dead));
    let late = late.filter(|late| *late > 0);
    let is_valid = verdict.as_deref() == Some("VALID");
    for counts in [
        &mut report.total,
        report.instances.entry(instance).or_default(),
    ] {
        counts.verifies += 1;
        counts.unavailable += usize::from(verdict.is_none());
        counts.valid += usize::from(is_valid);
        counts.after_death += usize::from(late.is_some());
    }
    let fault = match (late, verdict) {
        (Some(late), Some(_)) if is_valid => Fault::ValidAfterDeath { late },
        (_, Some(verdict)) if !is_valid && life.dying.is_none_or(|dying| ended < dying) => {
            Fault::LiveKeyCalledDead { verdict }
        }
        _ => return Ok(()),
    };
    report.violations.push(Violation {
        key,
        instance,
        began,
        fault,
    });
    Ok(())
}

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
#[derive(Clone, Default)]
struct Life {
    dying: Option<u64>,
    deaths: Vec<Death>,
}

/// One promise that the key is dead.
#[derive(Clone, Copy)]
struct Death {
    at: u64,
    /// The instance that it concerns; `None` means all.
    instance: Option<usize>,
    /// From when on it is void.
    until: Option<u64>,
}

impl Life {
    /// How long a Verify by `instance` started after a promised death that held until its end.
    fn late(&self, instance: usize, began: u64, ended: u64) -> Option<u64> {
        let concerns = |death: &&Death| {
            death.instance.is_none_or(|only| only == instance)
                && death.until.is_none_or(|until| ended < until)
        };
        let deaths = self.deaths.iter().filter(concerns);
        let late = deaths.filter_map(|death| began.checked_sub(death.at)).max();
        late.filter(|late| *late > 0)
    }
}

/// Reads the history at `path` and checks it.
///
/// # Errors
///
/// The file is unreadable, a line is not an event, or a key died without being issued or revoked.
/// A history without a Verify is also refused, because it proves nothing.
pub fn check(path: &Path) -> Result<Report, Unreadable> {
    let wrong = |error: String| Unreadable(format!("{}: {error}", path.display()));
    // Two passes, because the death of a key can follow a Verify that it affects.
    let mut lives = HashMap::new();
    each(path, |event| live(&mut lives, &event))?;
    let mut report = begin(&lives).map_err(wrong)?;
    each(path, |event| judge(&mut report, &lives, &event))?;
    finish(report).map_err(wrong)
}

/// Checks a history in memory, as [`check`] does.
///
/// # Errors
///
/// See [`check`].
pub fn check_events(events: &[Event]) -> Result<Report, Unreadable> {
    let mut lives = HashMap::new();
    let mut checked = || {
        events
            .iter()
            .try_for_each(|event| live(&mut lives, event))?;
        let mut report = begin(&lives)?;
        let mut events = events.iter();
        events.try_for_each(|event| judge(&mut report, &lives, event))?;
        finish(report)
    };
    checked().map_err(Unreadable)
}

fn begin(lives: &HashMap<String, Life>) -> Result<Report, String> {
    for (key, life) in lives {
        if !life.deaths.is_empty() && life.dying.is_none() {
            return Err(format!("the key {key} is dead without a request to end it"));
        }
    }
    let dead = lives.values().filter(|life| !life.deaths.is_empty());
    Ok(Report {
        keys: lives.len(),
        dead: dead.count(),
        ..Report::default()
    })
}

fn finish(report: Report) -> Result<Report, String> {
    match report.total.verifies {
        0 => Err("holds no verify".to_owned()),
        _ => Ok(report),
    }
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

/// Records when a key was issued, the earliest time of its dying, and its deaths.
fn live(lives: &mut HashMap<String, Life>, event: &Event) -> Result<(), String> {
    match event {
        Event::Issued { key, .. } => match lives.insert(key.clone(), Life::default()) {
            None => {}
            Some(_) => return Err("a key is issued twice".to_owned()),
        },
        Event::Dying { key, at } => {
            let life = of(lives, key)?;
            life.dying = Some(life.dying.map_or(*at, |known| known.min(*at)));
        }
        Event::Dead { key, at, instance } => of(lives, key)?.deaths.push(Death {
            at: *at,
            instance: *instance,
            until: None,
        }),
        Event::Revived { key, at, instance } => revive(of(lives, key)?, *at, *instance),
        Event::Verify { .. } => {}
    }
    Ok(())
}

fn of<'l>(lives: &'l mut HashMap<String, Life>, key: &str) -> Result<&'l mut Life, String> {
    lives.get_mut(key).ok_or_else(|| unknown(key))
}

/// Ends the promises so far: all, or those that concern one instance alone.
fn revive(life: &mut Life, at: u64, instance: Option<usize>) {
    for death in &mut life.deaths {
        if instance.is_none() || death.instance == instance {
            death.until = Some(death.until.map_or(at, |until| until.min(at)));
        }
    }
}

fn unknown(key: &str) -> String {
    format!("the key {key} was never issued")
}

fn judge(report: &mut Report, lives: &HashMap<String, Life>, event: &Event) -> Result<(), String> {
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
    let (instance, began, ended) = (*instance, *began, *ended);
    let life = lives.get(key).ok_or_else(|| unknown(key))?;
    if let Some(name) = verdict.as_deref().filter(|name| !is_verdict(name)) {
        return Err(format!("{name} is no verdict"));
    }
    if ended < began {
        return Err("a call ended before it began".to_owned());
    }
    let late = life.late(instance, began, ended);
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
            let verdict = verdict.clone();
            Fault::LiveKeyCalledDead { verdict }
        }
        _ => return Ok(()),
    };
    report.violations.push(Violation {
        key: key.clone(),
        instance,
        began,
        fault,
    });
    Ok(())
}

//! The report of `keyward doctor`.

use keyward_ops::findings::{Finding, Findings, Level};
use serde_json::json;

use super::render::Report;
use super::{DONE, FAILED};
use crate::config::Errors;

/// The report on settings that are refused: nothing else can be examined.
pub(super) fn refused(errors: &Errors) -> Report {
    let mut found = Findings::default();
    errors
        .0
        .iter()
        .for_each(|error| found.error("settings", error));
    report(&found.0)
}

/// The report on what was found.
pub(super) fn report(findings: &[Finding]) -> Report {
    let rows = findings.iter().map(|finding| {
        json!({
            "level": finding.level.name(),
            "subject": finding.subject,
            "finding": finding.text,
        })
    });
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let errors = count(Level::Error);
    Report {
        note: (errors > 0).then(|| {
            let verb = if errors == 1 { "stops" } else { "stop" };
            format!("{errors} of {} findings {verb} Keyward", findings.len())
        }),
        exit: if errors > 0 { FAILED } else { DONE },
        ..Report::default().table("findings", &["level", "subject", "finding"], rows.collect())
    }
}

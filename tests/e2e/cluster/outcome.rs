//! The outcome of a load: the promise was kept, and enough happened to show it.

use std::path::{Path, PathBuf};

use keyward_testkit::{Report, check};

use super::tell;

/// Calls that ended a key and returned OK.
const ENDED: usize = 15;
/// Verifies that said VALID, on all instances.
const VALID: usize = 100;
/// Verifies that began after the key's death, on each instance that was there all the time.
const AFTER_DEATH: usize = 60;

/// What was seen, and what was done.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// Calls that ended a key and returned OK.
    pub(crate) ended: usize,
    /// Instances that were there all the time.
    pub(crate) stayed: Vec<usize>,
    history: PathBuf,
}

impl Outcome {
    pub(crate) fn new(history: &Path, ended: usize, stayed: Vec<usize>) -> Self {
        Self {
            report: check(history).unwrap(),
            ended,
            stayed,
            history: history.to_path_buf(),
        }
    }

    pub(crate) fn assert_kept(&self, name: &str) {
        let report = &self.report;
        tell(name, format_args!("{report}"));
        if !report.violations.is_empty() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
            std::fs::copy(&self.history, &kept).unwrap();
            let shown: Vec<_> = report.violations.iter().take(20).collect();
            panic!("{name}: {report}\n{shown:#?}\n{}", kept.display());
        }
        assert!(self.ended >= ENDED, "{name}: {} keys ended", self.ended);
        assert!(report.total.valid >= VALID, "{name}: {report}");
        for number in &self.stayed {
            let counts = report.instances.get(number).copied().unwrap_or_default();
            assert!(
                counts.after_death >= AFTER_DEATH,
                "{name}: instance {number}: {counts:?}"
            );
        }
    }
}

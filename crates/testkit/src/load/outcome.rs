//! The outcome of a load: the promise was kept, and enough happened to show it.

use std::path::{Path, PathBuf};

use crate::{Report, check};

/// The least that must happen.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    /// Calls that ended a key and returned OK.
    pub ended: usize,
    /// Verifies with the verdict VALID, on all instances.
    pub valid: usize,
    /// Verifies that began after the key's death, on each instance that stayed all the time.
    pub after_death: usize,
}

/// What was seen, and what was done.
pub struct Outcome {
    report: Report,
    ended: usize,
    /// The instances that stayed all the time.
    stayed: Vec<usize>,
    history: PathBuf,
}

impl Outcome {
    pub(super) fn new(history: &Path, ended: usize, stayed: Vec<usize>) -> Self {
        Self {
            report: check(history).expect("a history can be checked"),
            ended,
            stayed,
            history: history.to_path_buf(),
        }
    }

    /// Asserts that the promise was kept, and that enough happened. Returns the report.
    ///
    /// # Panics
    ///
    /// Otherwise. The history of a broken promise is kept in `target/testkit`.
    pub fn assert_kept(self, name: &str, least: Least) -> Report {
        let report = self.report;
        if !report.violations.is_empty() {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit");
            let kept = target.join(format!("{name}.jsonl"));
            let copied = std::fs::create_dir_all(&target);
            let copied = copied.and_then(|()| std::fs::copy(&self.history, &kept));
            let shown: Vec<_> = report.violations.iter().take(20).collect();
            panic!(
                "{name}: {report}\n{shown:#?}\n{}: {copied:?}",
                kept.display()
            );
        }
        assert!(
            self.ended >= least.ended,
            "{name}: {} keys ended",
            self.ended
        );
        assert!(report.total.valid >= least.valid, "{name}: {report}");
        for number in &self.stayed {
            let counts = report.instances.get(number).copied().unwrap_or_default();
            assert!(
                counts.after_death >= least.after_death,
                "{name}: instance {number}: {counts:?}"
            );
        }
        report
    }
}

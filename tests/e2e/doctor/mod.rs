//! `keyward doctor` finds each fault that is planted, says what mends it, and changes nothing.

mod local;
mod shared;

use std::process::Command;

use serde_json::Value;

/// What the doctor said, after it was run with these settings.
struct Findings {
    code: Option<i32>,
    /// Level, subject and text.
    all: Vec<(String, String, String)>,
}

impl Findings {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let (out, err) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        let said: Value = serde_json::from_slice(&out).unwrap_or_else(|error| {
            panic!("{error}: {}{err}", String::from_utf8_lossy(&out));
        });
        let text = said.to_string();
        assert!(
            !text.contains("-secret") && !text.contains("kwt_"),
            "{text}"
        );
        let found = said["findings"].as_array().unwrap().iter();
        let of = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
        let found = Self {
            code: output.status.code(),
            all: found
                .map(|it| (of(it, "level"), of(it, "subject"), of(it, "finding")))
                .collect(),
        };
        let has_error = found.all.iter().any(|(level, ..)| level == "error");
        assert_eq!(found.code, Some(i32::from(has_error)), "{:?}", found.all);
        assert_eq!(err.contains(" Keyward"), has_error, "{err}");
        found
    }

    /// There is nothing to mend.
    #[track_caller]
    fn are_fine(&self) -> &Self {
        let bad: Vec<_> = self
            .all
            .iter()
            .filter(|(level, ..)| level != "ok")
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
        self
    }

    /// The one finding that is not ok contains all of `texts`.
    #[track_caller]
    fn only(&self, level: &str, subject: &str, texts: &[&str]) {
        let bad: Vec<_> = self
            .all
            .iter()
            .filter(|(level, ..)| level != "ok")
            .collect();
        assert_eq!(bad.len(), 1, "{:?}", self.all);
        self.has(level, subject, texts);
    }

    #[track_caller]
    fn has(&self, level: &str, subject: &str, texts: &[&str]) {
        let is_it = |(of, about, text): &&(String, String, String)| {
            of == level && about == subject && texts.iter().all(|wanted| text.contains(wanted))
        };
        assert!(
            self.all.iter().any(|it| is_it(&it)),
            "{level} {subject} {texts:?}: {:#?}",
            self.all
        );
    }
}

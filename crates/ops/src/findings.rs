//! What an examination of a deployment has found.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and an operator should change it.
    Warning,
    /// Keyward cannot start or serve like this.
    Error,
}

impl Level {
    /// The name for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One fact about the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The part of the deployment, such as `store`.
    pub subject: &'static str,
    /// What is so, and what to do about it. Contains no secret.
    pub text: String,
}

/// All findings, in the order of the examination.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Adds a finding.
    pub fn add(&mut self, level: Level, subject: &'static str, text: impl ToString) {
        let text = text.to_string();
        self.0.push(Finding {
            level,
            subject,
            text,
        });
    }

    /// Adds that `subject` is as it should be.
    pub fn ok(&mut self, subject: &'static str, text: impl ToString) {
        self.add(Level::Ok, subject, text);
    }

    /// Adds what an operator should change.
    pub fn warn(&mut self, subject: &'static str, text: impl ToString) {
        self.add(Level::Warning, subject, text);
    }

    /// Adds what stops Keyward.
    pub fn error(&mut self, subject: &'static str, text: impl ToString) {
        self.add(Level::Error, subject, text);
    }
}

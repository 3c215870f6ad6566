//! What an agent says if it has no answer.

use std::collections::HashMap;

use keyward_client::{Error, ErrorKind, Unanswered};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{AGENT_CUT_OFF, AGENT_VERIFIES_ONLY, DOMAIN, INVALID_FIELD, OUTCOME_UNKNOWN, Reason};

/// Why an agent does not answer a call.
#[derive(Debug, thiserror::Error)]
pub(in crate::grpc) enum AgentError {
    /// A local program asks for something else than a verdict.
    #[error(
        "an agent only verifies keys for local programs; for other calls send a token of Keyward, and the \
         agent passes them on"
    )]
    VerifiesOnly,
    /// Keyward gave no verdict.
    #[error("the agent cannot verify this key now: {0}")]
    CutOff(Error),
    /// A call that was passed on got no answer.
    #[error("the agent got no answer from Keyward: {error}", error = .0.error)]
    Unanswered(Unanswered),
}

impl AgentError {
    fn reason(&self) -> &'static Reason {
        match self {
            Self::VerifiesOnly => &AGENT_VERIFIES_ONLY,
            // An agent of an older version may let a wrong field through.
            Self::CutOff(error) if error.kind == ErrorKind::Invalid => &INVALID_FIELD,
            Self::Unanswered(unanswered) if unanswered.was_sent => &OUTCOME_UNKNOWN,
            Self::CutOff(_) | Self::Unanswered(_) => &AGENT_CUT_OFF,
        }
    }
}

/// Nothing here says UNAUTHENTICATED: a refusal of the agent's own token is no refusal of its caller.
impl From<AgentError> for Status {
    fn from(error: AgentError) -> Self {
        let Reason { name, code, .. } = error.reason();
        let mut details = ErrorDetails::with_error_info(*name, DOMAIN, HashMap::new());
        if let AgentError::CutOff(cause) = &error
            && *code == Code::Unavailable
        {
            details.set_retry_info(cause.retry_after);
        }
        Self::with_error_details(*code, error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_of_the_agent_says_anything_about_its_caller_or_the_key() {
        for kind in [
            ErrorKind::Unavailable,
            ErrorKind::Unauthorized,
            ErrorKind::NotFound,
            ErrorKind::Internal,
        ] {
            let error = Error {
                kind,
                reason: Some("TOKEN_INVALID".to_owned()),
                message: "no".to_owned(),
                advice: None,
                metadata: HashMap::new(),
                retry_after: None,
            };
            let status = Status::from(AgentError::CutOff(error));
            assert_eq!(status.code(), Code::Unavailable, "{kind:?}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "AGENT_CUT_OFF");
        }
    }
}

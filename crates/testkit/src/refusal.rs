//! Assertions on refused calls: code, reason, domain, field.

use std::collections::HashMap;
use std::fmt::Debug;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Asserts that `outcome` is an error of the domain `keyward` with `code` and `reason`. Returns its
/// metadata.
#[track_caller]
pub fn refused<T: Debug>(
    outcome: Result<T, Status>,
    code: Code,
    reason: &str,
) -> HashMap<String, String> {
    let status = outcome.expect_err("the call is refused");
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("an ErrorInfo comes with {status}"));
    let found = (status.code(), info.reason.as_str(), info.domain.as_str());
    assert_eq!(found, (code, reason, "keyward"), "{status}");
    assert!(!status.message().is_empty());
    info.metadata
}

/// Asserts that `outcome` is INVALID_ARGUMENT for `field` only.
#[track_caller]
pub fn invalid<T: Debug>(outcome: Result<T, Status>, field: &str) {
    invalid_fields(outcome, &[field]);
}

/// Asserts that `outcome` is INVALID_ARGUMENT for exactly these fields.
#[track_caller]
pub fn invalid_fields<T: Debug>(outcome: Result<T, Status>, wrong: &[&str]) {
    let status = outcome.expect_err("the field is refused");
    let violations = status
        .get_details_bad_request()
        .map_or_else(Vec::new, |details| details.field_violations);
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| &violation.field)
        .collect();
    assert_eq!(fields, wrong, "{status}");
    assert!(
        violations
            .iter()
            .all(|violation| !violation.description.is_empty())
    );
    refused(Err::<T, _>(status), Code::InvalidArgument, "INVALID_FIELD");
}

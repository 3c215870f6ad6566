//! The client certificate of a connection, whose chain, times and purpose the TLS handshake has verified.

use keyward_core::key::{San, Timestamp};

/// The maximum number of names in a certificate. Each may cost a read of the store.
const MAX_NAMES: usize = 16;

/// A verified client certificate.
#[derive(Debug)]
pub struct Certificate {
    names: Result<Vec<San>, &'static str>,
    end: Timestamp,
}

impl Certificate {
    /// A certificate with these URIs and DNS names, which is expired from `end` on. Wildcards and other texts
    /// that name no single caller do not count.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>, end: Timestamp) -> Self {
        let names = names
            .into_iter()
            .filter_map(|name| San::new("san", name).ok());
        let mut names: Vec<_> = names.take(MAX_NAMES + 1).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        let names = match count {
            0 => Err(
                "the client certificate has no URI and no DNS name (SAN) that names a caller; its \
                 common name and wildcards do not count",
            ),
            1..=MAX_NAMES => Ok(names),
            _ => Err("the client certificate has more than 16 names; it must name one caller"),
        };
        Self { names, end }
    }

    /// A certificate whose content cannot be read.
    pub fn unreadable(reason: &'static str) -> Self {
        Self {
            names: Err(reason),
            end: Timestamp::default(),
        }
    }

    /// The names that may belong to a caller.
    pub(super) fn names(&self) -> Result<&[San], &'static str> {
        self.names.as_deref().map_err(|reason| *reason)
    }

    /// The time from which it is expired.
    pub(super) fn end(&self) -> Timestamp {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[&str]) -> Result<Vec<String>, &'static str> {
        let certificate = Certificate::new(given.iter().copied(), Timestamp::NEVER);
        certificate
            .names()
            .map(|names| names.iter().map(San::to_string).collect())
    }

    #[test]
    fn only_names_of_single_callers_count() {
        let found = names(&["B.example", "*.example", "spiffe://corp/a", "b.example", ""]);
        assert_eq!(found.unwrap(), ["b.example", "spiffe://corp/a"]);
        for none in [&[][..], &["*.example"], &["a b", "*"]] {
            assert!(names(none).unwrap_err().contains("common name"));
        }
    }

    #[test]
    fn many_names_are_no_caller() {
        let many: Vec<_> = (0..=MAX_NAMES).map(|n| format!("n{n}.example")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(names(&many).unwrap_err().contains("more than 16"));
        many.pop();
        assert_eq!(names(&many).unwrap().len(), MAX_NAMES);
        assert!(
            names(&["n.example"; 100])
                .unwrap_err()
                .contains("more than 16")
        );
    }
}

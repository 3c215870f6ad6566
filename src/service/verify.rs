//! Verify: recognise without I/O, find, admit, judge. Nothing here says VALID by itself: the
//! fence admits the record, and the fence judges it.

use std::sync::Arc;

use super::{NotOurs, Service, ServiceError};
use crate::cache::{Consistency, Entry};
use keyward_core::fence::{Ask, judge};
use keyward_core::key::{KeyRecord, SecretText, Verdict};

/// One key to verify.
#[derive(Debug)]
pub struct Verify {
    /// The key's text as it was sent.
    pub text: SecretText,
    /// What is asked of the key.
    pub ask: Ask,
    /// Where the answer may come from.
    pub consistency: Consistency,
}

/// The verdict on one key.
#[derive(Debug)]
pub struct Verified {
    /// The verdict.
    pub verdict: Verdict,
    /// The record of a key that is valid; of no other.
    pub record: Option<Arc<Entry<KeyRecord>>>,
}

impl Service {
    /// Judges one key. An error speaks about the call, never about the key.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, ServiceError> {
        let verified = match self.recognise(verify.text.expose()) {
            Err(NotOurs::Malformed) => {
                self.metrics.garbage.malformed.inc();
                Verified {
                    verdict: Verdict::Malformed,
                    record: None,
                }
            }
            Err(NotOurs::Tag) => {
                self.metrics.garbage.tag.inc();
                Verified {
                    verdict: Verdict::NotFound,
                    record: None,
                }
            }
            Ok(digest) => match self.keys.find(&digest, verify.consistency).await? {
                None => Verified {
                    verdict: Verdict::NotFound,
                    record: None,
                },
                Some(found) => {
                    let verdict = judge(found.entry.record(), &verify.ask, found.at);
                    let record = (verdict == Verdict::Valid).then_some(found.entry);
                    Verified { verdict, record }
                }
            },
        };
        self.metrics.verdict(verified.verdict as usize);
        Ok(verified)
    }

    /// Judges several keys at once, in order.
    pub async fn verify_batch(&self, batch: &[Verify]) -> Result<Vec<Verified>, ServiceError> {
        futures_util::future::try_join_all(batch.iter().map(|one| self.verify(one))).await
    }
}

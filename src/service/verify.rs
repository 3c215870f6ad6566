//! Verify: recognises the text without I/O, finds the record, admits it and judges it. Only the fence
//! admits and judges, so only the fence can make a verdict VALID.

use std::sync::Arc;

use super::{Service, ServiceError, Unrecognised};
use crate::cache::{Consistency, Entry};
use keyward_core::fence::{Ask, judge};
use keyward_core::key::{KeyRecord, SecretText, Verdict};

/// One key to verify.
#[derive(Debug)]
pub struct Verify {
    /// The key's text as the caller sent it.
    pub text: SecretText,
    /// The scopes and the client address that the key must allow.
    pub ask: Ask,
    /// The source of the answer.
    pub consistency: Consistency,
}

/// The verdict on one key.
#[derive(Debug)]
pub struct Verified {
    /// The verdict.
    pub verdict: Verdict,
    /// The record, if the key is valid.
    pub record: Option<Arc<Entry<KeyRecord>>>,
}

impl Service {
    /// Verifies one key. An error concerns the call, never the key.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, ServiceError> {
        let (verdict, record) = match self.recognise(verify.text.expose()) {
            Err(Unrecognised::Malformed) => {
                self.metrics.garbage.malformed.inc();
                (Verdict::Malformed, None)
            }
            Err(Unrecognised::Tag) => {
                self.metrics.garbage.tag.inc();
                (Verdict::NotFound, None)
            }
            Ok(digest) => match self.keys.find(&digest, verify.consistency).await? {
                None => (Verdict::NotFound, None),
                Some(found) => {
                    let verdict = judge(found.entry.record(), &verify.ask, found.at);
                    let is_valid = verdict == Verdict::Valid;
                    (verdict, is_valid.then_some(found.entry))
                }
            },
        };
        self.metrics.verdict(verdict as usize);
        Ok(Verified { verdict, record })
    }

    /// Verifies several keys concurrently. The results are in the order of `batch`.
    pub async fn verify_batch(&self, batch: &[Verify]) -> Result<Vec<Verified>, ServiceError> {
        futures_util::future::try_join_all(batch.iter().map(|verify| self.verify(verify))).await
    }
}

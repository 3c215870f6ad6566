//! Verify: recognises the text without I/O, finds the record, admits it and judges it. Only the fence
//! admits and judges, so only the fence can make a verdict VALID.

use std::sync::Arc;

use super::{Service, ServiceError, Unrecognised};
use crate::cache::{Admitted, Consistency, Entry, KeptKey};
use keyward_core::fence::{Ask, Now, judge};
use keyward_core::key::{SecretText, TextForm, Verdict};
use keyward_crypto::Digest;

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
    /// The key, if it is valid.
    pub key: Option<Arc<Entry<KeptKey>>>,
}

impl Service {
    /// Verifies one key without I/O, by its text alone or by a record in memory. `now` was read after
    /// the call arrived. A digest says nothing: pass it to `verify_behind`.
    pub fn verify_now(&self, verify: &Verify, now: Now) -> Result<Verified, Digest> {
        let text = verify.text.expose();
        let Ok((prefix, body)) = TextForm::read(text, &self.prefixes) else {
            return Ok(self.refused(Unrecognised::Malformed));
        };
        let keyring = self.keyring.load();
        if verify.consistency == Consistency::Default {
            // A record in memory was found by a text whose tag was checked, so the digest is enough.
            let mut digests = keyring.digests(text);
            if let Some(found) = digests.find_map(|digest| self.keys.cached(&digest, now)) {
                return Ok(self.judged(found, verify));
            }
        }
        match keyring.digest_of(prefix, &body, text) {
            Some((digest, _)) => Err(digest),
            None => Ok(self.refused(Unrecognised::Tag)),
        }
    }

    /// Verifies one key whose record `verify_now` did not find in memory.
    pub async fn verify_behind(
        &self,
        verify: &Verify,
        digest: &Digest,
    ) -> Result<Verified, ServiceError> {
        let found = self.keys.find_behind(digest, verify.consistency).await?;
        Ok(match found {
            Some(found) => self.judged(found, verify),
            None => self.counted(Verdict::NotFound, None),
        })
    }

    /// Verifies one key. An error concerns the call, never the key.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, ServiceError> {
        match self.verify_now(verify, Now::read(&*self.clock)) {
            Ok(verified) => Ok(verified),
            Err(digest) => self.verify_behind(verify, &digest).await,
        }
    }

    fn refused(&self, unrecognised: Unrecognised) -> Verified {
        let garbage = &self.metrics.garbage;
        let (counter, verdict) = match unrecognised {
            Unrecognised::Malformed => (&garbage.malformed, Verdict::Malformed),
            Unrecognised::Tag => (&garbage.tag, Verdict::NotFound),
        };
        counter.inc();
        self.counted(verdict, None)
    }

    fn judged(&self, found: Admitted<KeptKey>, verify: &Verify) -> Verified {
        let verdict = judge(found.entry.kept().terms(), &verify.ask, found.at);
        let is_valid = verdict == Verdict::Valid;
        self.counted(verdict, is_valid.then_some(found.entry))
    }

    fn counted(&self, verdict: Verdict, key: Option<Arc<Entry<KeptKey>>>) -> Verified {
        self.metrics.verdict(verdict as usize);
        Verified { verdict, key }
    }

    /// Verifies several keys concurrently. The results are in the order of `batch`.
    pub async fn verify_batch(&self, batch: &[Verify]) -> Result<Vec<Verified>, ServiceError> {
        futures_util::future::try_join_all(batch.iter().map(|verify| self.verify(verify))).await
    }
}

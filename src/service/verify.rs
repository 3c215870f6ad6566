//! Verify: recognises the text without I/O, finds the record, admits it and judges it. Only the fence
//! admits and judges, so only the fence can make a verdict VALID.

use std::sync::Arc;

use super::{Service, ServiceError, Unrecognised};
use crate::cache::{Admitted, Consistency, Entry, ForeignDigests, Kept as _, KeptForeign, KeptKey};
use keyward_core::fence::{Ask, Now, Stamp, Terms, judge, judge_all};
use keyward_core::key::{KeyId, SecretText, TextForm, Timestamp, Verdict};
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
    /// Whether a near-cache asks, which keeps the key.
    pub wants_entry: bool,
}

/// The verdict on one key.
#[derive(Debug)]
pub struct Verified {
    /// The verdict.
    pub verdict: Verdict,
    /// The key, if it is valid.
    pub key: Option<ValidKey>,
    /// The name of a key that is revoked, expired or disabled.
    pub dead: Option<KeyId>,
}

/// A valid key.
#[derive(Debug)]
pub struct ValidKey {
    entry: ValidEntry,
    /// The stamp by which this call was admitted (I2).
    pub stamp: Stamp,
    /// The store's time at the admission.
    pub at: Timestamp,
}

/// A valid key, as it is in memory.
#[derive(Debug)]
enum ValidEntry {
    /// A key that Keyward issued.
    Own(Arc<Entry<KeptKey>>),
    /// The keys that the text of a foreign key names, all valid.
    Foreign {
        entry: Arc<Entry<KeptForeign>>,
        /// Whether the text has no other digests than those that were read.
        is_complete: bool,
    },
}

impl ValidKey {
    /// The key that the answer shows: of several the first.
    pub fn shown(&self) -> Option<&KeptKey> {
        match &self.entry {
            ValidEntry::Own(entry) => Some(entry.kept()),
            ValidEntry::Foreign { entry, .. } => entry.kept().keys().first(),
        }
    }

    /// What a near-cache keeps: the ids whose changes outdate it, and what decides a verdict. `None` for a
    /// text that names several keys, or may do so.
    pub fn kept(&self) -> Option<(Vec<KeyId>, &Terms)> {
        match &self.entry {
            ValidEntry::Own(entry) => Some((entry.kept().ids().to_vec(), entry.kept().terms())),
            ValidEntry::Foreign {
                is_complete: false, ..
            } => None,
            ValidEntry::Foreign { entry, .. } => {
                let mut terms = entry.kept().terms();
                let only = terms.next().filter(|_| terms.next().is_none())?;
                // A near-cache does not know the digests, so it cannot notice that there are more by now.
                let ids = entry.kept().keys().iter().map(KeptKey::id);
                let ids = ids.chain([KeyId::IMPORTS]).collect();
                Some((ids, only))
            }
        }
    }
}

/// What to look up for a text that no record in memory answers.
#[derive(Debug)]
pub enum Missed {
    /// A key that Keyward issued.
    Own(Digest),
    /// A foreign key.
    Foreign(ForeignDigests),
}

impl Service {
    /// Verifies one key without I/O, by its text alone or by records in memory. `now` was read after the
    /// call arrived. An error says nothing: pass it to `verify_behind`.
    pub fn verify_now(&self, verify: &Verify, now: Now) -> Result<Verified, Missed> {
        let text = verify.text.expose();
        let Ok((prefix, body)) = TextForm::read(text, &self.prefixes) else {
            return self.verify_foreign_now(verify, now);
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
            Some((digest, _)) => Err(Missed::Own(digest)),
            None => Ok(self.refused(Unrecognised::Tag)),
        }
    }

    /// `verify_now` for a text that does not have the form of a key.
    fn verify_foreign_now(&self, verify: &Verify, now: Now) -> Result<Verified, Missed> {
        let digests: ForeignDigests = match self.foreign_digests(verify.text.expose()) {
            Ok(digests) => digests.into(),
            Err(unrecognised) => return Ok(self.refused(unrecognised)),
        };
        if verify.consistency == Consistency::Default
            && let Some(found) = self.foreign_keys.cached(&digests, now)
        {
            return Ok(self.judged_all(found, &digests, verify));
        }
        Err(Missed::Foreign(digests))
    }

    /// Verifies one key whose record `verify_now` did not find in memory.
    pub async fn verify_behind(
        &self,
        verify: &Verify,
        missed: &Missed,
    ) -> Result<Verified, ServiceError> {
        let consistency = verify.consistency;
        let verified = match missed {
            Missed::Own(digest) => {
                let found = self.keys.find_behind(digest, consistency).await?;
                found.map(|found| self.judged(found, verify))
            }
            Missed::Foreign(digests) => {
                let found = self.foreign_keys.find_behind(digests, consistency).await?;
                found.map(|found| self.judged_all(found, digests, verify))
            }
        };
        Ok(verified.unwrap_or_else(|| self.unknown(Verdict::NotFound)))
    }

    /// Verifies one key. An error concerns the call, never the key.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, ServiceError> {
        match self.verify_now(verify, Now::read(&*self.clock)) {
            Ok(verified) => Ok(verified),
            Err(missed) => self.verify_behind(verify, &missed).await,
        }
    }

    fn refused(&self, unrecognised: Unrecognised) -> Verified {
        let garbage = &self.metrics.garbage;
        let (counter, verdict) = match unrecognised {
            Unrecognised::Malformed => (&garbage.malformed, Verdict::Malformed),
            Unrecognised::Tag => (&garbage.tag, Verdict::NotFound),
        };
        counter.inc();
        self.unknown(verdict)
    }

    /// The verdict on a text that names no key.
    fn unknown(&self, verdict: Verdict) -> Verified {
        self.metrics.verdict(verdict as usize);
        Verified {
            verdict,
            key: None,
            dead: None,
        }
    }

    fn judged(&self, found: Admitted<KeptKey>, verify: &Verify) -> Verified {
        let kept = found.entry.kept();
        let verdict = judge(kept.terms(), &verify.ask, found.at);
        let dead = self.noted(verdict, std::slice::from_ref(kept), Some(kept), found.at);
        let key = (verdict == Verdict::Valid).then_some(ValidKey {
            stamp: found.stamp,
            at: found.at,
            entry: ValidEntry::Own(found.entry),
        });
        Verified { verdict, key, dead }
    }

    /// The verdict on all keys that the text of a foreign key names.
    fn judged_all(
        &self,
        found: Admitted<KeptForeign>,
        digests: &[Digest],
        verify: &Verify,
    ) -> Verified {
        let kept = found.entry.kept();
        let (decider, verdict) = judge_all(kept.terms(), &verify.ask, found.at);
        let dead = self.noted(verdict, kept.keys(), kept.keys().get(decider), found.at);
        if kept.keys().len() > 1 && self.ambiguous.is_due() {
            let key_ids: Vec<_> = kept.keys().iter().map(KeptKey::id).collect();
            tracing::warn!(
                ?key_ids,
                "one text names several keys, which were imported as different ones: it is valid only while all of them are"
            );
        }
        let key = (verdict == Verdict::Valid).then(|| ValidKey {
            stamp: found.stamp,
            at: found.at,
            entry: ValidEntry::Foreign {
                // A near-cache keeps the keys under their text. So the digests are compared after the admission:
                // an import under one that this instance does not know yet is later, and outdates the entry.
                is_complete: verify.wants_entry && self.has_digests(verify, digests),
                entry: found.entry,
            },
        });
        Verified { verdict, key, dead }
    }

    /// Whether the text of a foreign key has these digests now.
    fn has_digests(&self, verify: &Verify, digests: &[Digest]) -> bool {
        let now = self.foreign_digests(verify.text.expose());
        now.is_ok_and(|now| now == digests)
    }

    /// Counts a verdict on known keys, and notes that they were used or that the decisive one was refused.
    /// Returns the name of that one if it is dead.
    fn noted(
        &self,
        verdict: Verdict,
        keys: &[KeptKey],
        decisive: Option<&KeptKey>,
        at: Timestamp,
    ) -> Option<KeyId> {
        self.metrics.verdict(verdict as usize);
        match verdict {
            Verdict::Valid => keys.iter().for_each(|key| key.note_use(at)),
            Verdict::Revoked | Verdict::Expired | Verdict::Disabled => {
                let key = decisive?;
                key.note_refusal(at);
                return Some(key.id());
            }
            _ => {}
        }
        None
    }

    /// Verifies several keys concurrently. The results are in the order of `batch`.
    pub async fn verify_batch(&self, batch: &[Verify]) -> Result<Vec<Verified>, ServiceError> {
        futures_util::future::try_join_all(batch.iter().map(|verify| self.verify(verify))).await
    }
}

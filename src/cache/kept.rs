//! What is kept of a record in memory: what decides an answer, and what else the answer shows. A key takes
//! few bytes, so that an instance can keep millions.

use std::sync::Arc;

use super::uses::{UseMark, Uses};
use keyward_core::fence::Terms;
use keyward_core::key::{KeyId, KeyRecord, Timestamp, TokenRecord};

/// What is kept of a record.
pub trait Kept: Send + Sync + 'static {
    /// The ids in the log whose changes outdate it.
    fn ids(&self) -> &[KeyId];
    /// The size in memory, in bytes, apart from the value itself.
    fn weight(&self) -> usize;
}

/// What is kept of a key.
#[derive(Debug)]
pub struct KeptKey {
    pub(super) id: KeyId,
    pub(super) mark: UseMark,
    terms: Terms,
    answer: KeptAnswer,
}

/// The bytes of the answer VALID, without what the rest of a [`KeptKey`] tells: its id and scopes. The
/// first byte is the length of what stands before the scopes.
#[derive(Debug, Default)]
pub struct KeptAnswer(Box<[u8]>);

impl KeptAnswer {
    /// The bytes between the id and the scopes, at most 255, and those after the scopes.
    pub fn new(before: &[u8], after: &[u8]) -> Self {
        debug_assert!(before.len() <= u8::MAX.into(), "an account and a name");
        // With another length the fields would come in another order, which means the same.
        let length = u8::try_from(before.len()).unwrap_or(0);
        Self([&[length], before, after].concat().into())
    }

    /// The bytes between the id and the scopes, and those after the scopes.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        match self.0.split_first() {
            Some((length, bytes)) => bytes.split_at((*length).into()),
            None => (&[], &[]),
        }
    }
}

impl KeptKey {
    /// Keeps what decides a verdict on `record`, and the rest of what answers VALID. What `uses` has not
    /// collected when this ends, it keeps.
    pub fn new(record: &KeyRecord, answer: KeptAnswer, uses: &Arc<Uses>) -> Self {
        Self {
            id: record.id,
            mark: UseMark::new(uses),
            terms: Terms::from(record),
            answer,
        }
    }

    /// What decides a verdict.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The public name of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Notes that the key was accepted at the store's time `at`.
    pub fn note_use(&self, at: Timestamp) {
        self.mark.note_use(at);
    }

    /// Notes that the key was refused at the store's time `at`, because it is dead.
    pub fn note_refusal(&self, at: Timestamp) {
        self.mark.note_refusal(at);
    }

    /// What answers a call for which the fence has admitted the key and judged it VALID.
    pub fn answer(&self) -> &KeptAnswer {
        &self.answer
    }
}

impl Drop for KeptKey {
    fn drop(&mut self) {
        self.mark.leave(self.id);
    }
}

impl Kept for KeptKey {
    fn ids(&self) -> &[KeyId] {
        std::slice::from_ref(&self.id)
    }

    fn weight(&self) -> usize {
        self.terms.size() + self.answer.0.len()
    }
}

impl Kept for TokenRecord {
    fn ids(&self) -> &[KeyId] {
        std::slice::from_ref(&self.id)
    }

    fn weight(&self) -> usize {
        self.name.as_str().len()
    }
}

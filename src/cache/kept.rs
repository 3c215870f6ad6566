//! What is kept of a record in memory: what decides an answer, and the answer. A key takes few bytes, so
//! that an instance can keep millions.

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
    answer: Box<[u8]>,
}

impl KeptKey {
    /// Keeps what decides a verdict on `record`, and the bytes that answer VALID. What `uses` has not
    /// collected when this ends, it keeps.
    pub fn new(record: &KeyRecord, answer: Box<[u8]>, uses: &Arc<Uses>) -> Self {
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

    /// The bytes that answer a call for which the fence has admitted the key and judged it VALID.
    pub fn answer(&self) -> &[u8] {
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
        self.terms.size() + self.answer.len()
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

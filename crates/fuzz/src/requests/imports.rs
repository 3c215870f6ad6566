//! The keys that imports brought, by the digests under which they were imported.

use std::collections::HashMap;

use keyward_proto::v1;
use keyward_testkit::Scheme;

use super::replace;

/// The number in the markers.
const MARKER: u64 = u64::MAX >> 16;

/// An import by this text, or by a digest of it, is one by a text that no earlier input has imported.
pub fn foreign_marker() -> String {
    text_of(MARKER)
}

/// Imports the text of [`foreign_marker`] under a scheme, to a slot that no earlier input has filled.
pub fn importing(scheme: Scheme) -> v1::ImportKeysRequest {
    let name = format!("{scheme:?}-{}", slot_of(MARKER)).replace(['(', ')'], "");
    let key = v1::ImportKey {
        name,
        ..scheme.key("fuzz", &foreign_marker())
    };
    v1::ImportKeysRequest {
        batch_id: "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00".to_owned(),
        keys: vec![key],
        dry_run: false,
    }
}

fn text_of(number: u64) -> String {
    format!("2e4a1d1e-6f0c-4d2a-9a2f-{number:012x}")
}

fn slot_of(number: u64) -> String {
    format!("slot-{number:012x}")
}

/// The digests of a text, with their schemes.
fn digests(text: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    let given = Scheme::ALL
        .into_iter()
        .map(move |scheme| scheme.key("", text));
    given
        .filter(|key| key.api_key.is_empty())
        .map(|key| (key.digest_scheme, key.digest))
}

#[derive(Default)]
pub(super) struct Imports {
    texts: u64,
    text: String,
    ids: HashMap<(String, Vec<u8>), String>,
    batches: HashMap<String, Vec<String>>,
}

impl Imports {
    /// The input that begins has another text.
    pub(super) fn next_text(&mut self) {
        self.texts += 1;
        self.text = text_of(self.texts);
    }

    /// The text of this input.
    pub(super) fn text(&self) -> &String {
        &self.text
    }

    /// Replaces the markers and the digests.
    pub(super) fn with_text(&self, message: &mut [u8]) {
        let marker = foreign_marker();
        replace(message, marker.as_bytes(), self.text.as_bytes());
        let (slot, own) = (slot_of(MARKER), slot_of(self.texts));
        replace(message, slot.as_bytes(), own.as_bytes());
        for ((_, from), (_, to)) in digests(&marker).zip(digests(&self.text)) {
            replace(message, &from, &to);
        }
    }

    pub(super) fn add(&mut self, batch: &str, key: &v1::ImportKey, id: &str) {
        let name = match key.api_key.is_empty() {
            true => Some((key.digest_scheme.clone(), key.digest.clone())),
            false => {
                let known = self.ids_of(&key.api_key);
                assert!(known.is_empty(), "the text of {known:?} was imported again");
                digests(&key.api_key).next()
            }
        };
        self.ids
            .insert(name.expect("there is a scheme"), id.to_owned());
        self.batches
            .entry(batch.to_owned())
            .or_default()
            .push(id.to_owned());
    }

    pub(super) fn ids_of(&self, text: &str) -> Vec<String> {
        let ids = digests(text).filter_map(|name| self.ids.get(&name));
        ids.cloned().collect()
    }

    pub(super) fn brought_by(&self, batch: &str) -> Vec<String> {
        self.batches.get(batch).cloned().unwrap_or_default()
    }
}

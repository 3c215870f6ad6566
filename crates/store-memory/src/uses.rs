//! The use of keys.

use async_trait::async_trait;

use super::MemoryStore;
use super::server::{Transaction, Transport};
use keyward_core::key::{KeyId, KeyUse};
use keyward_store::{Result, Usage};

#[async_trait]
impl<T: Transport> Usage for MemoryStore<T> {
    async fn note_uses(&self, uses: &[(KeyId, KeyUse)]) -> Result<()> {
        let uses = uses.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            for (id, noted) in uses {
                if tx.database.keys.contains_key(&id) {
                    let noted = KeyUse {
                        last_use: noted.last_use.map(|time| time.min(tx.now)),
                        last_refused: noted.last_refused.map(|time| time.min(tx.now)),
                        ..noted
                    };
                    let usage = tx.database.uses.entry(id).or_default();
                    let before = usage.last_refused;
                    usage.add(&noted);
                    let after = usage.last_refused;
                    tx.tell_refusal(id, before, after);
                }
            }
            Ok(())
        };
        self.write("note_uses", work).await
    }

    async fn uses_of(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, KeyUse)>> {
        let ids = ids.to_vec();
        let read = move |tx: &mut Transaction<'_>| {
            let uses = &tx.database.uses;
            let found = ids.into_iter().filter_map(|id| Some((id, *uses.get(&id)?)));
            Ok(found.collect())
        };
        self.read("uses_of", read).await
    }
}

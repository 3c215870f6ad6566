//! Keys that move in and out: import, its undoing, export. An import commits, waits until every instance
//! finds the keys, then replies.

use std::sync::Arc;

use super::{KeyUses, Page, PageQuery, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{
    AccountId, BatchId, FieldError, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes,
    SecretText, SlotName, Timestamp,
};
use keyward_crypto::{Digest, DigestScheme, Keyring};
use keyward_store::{
    Actor, CommittedChange, Import, ImportOutcome, ImportedKey, ListKeys, Revocation, RevokeAnswer,
    Revoked, Selection,
};

/// Keys of another system.
#[derive(Debug)]
pub struct ImportKeys {
    /// The name of the import.
    pub batch: BatchId,
    /// The keys. A key with a wrong field does not stop the others.
    pub keys: Vec<Result<ForeignKey, FieldError>>,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// A key of another system.
#[derive(Debug)]
pub struct ForeignKey {
    /// The account that owns the key.
    pub account: AccountId,
    /// The slot of the account.
    pub name: SlotName,
    /// What is known of the text.
    pub given: Given,
    /// The scopes of the key.
    pub scopes: Scopes,
    /// The notes of the key.
    pub metadata: Metadata,
    /// The networks from which the key can be used.
    pub networks: Networks,
    /// When the other system created the key, if that is known.
    pub create_time: Option<Timestamp>,
    /// When the key expires.
    pub expire_time: Option<Timestamp>,
    /// Whether to keep a sealed copy of the secret.
    pub recoverable: bool,
}

/// What is known of the text of a key.
#[derive(Debug)]
pub enum Given {
    /// The text.
    Text(SecretText),
    /// A digest of it.
    Digest(GivenScheme, [u8; 32]),
}

/// How the other system computed a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenScheme {
    /// A named scheme.
    Named(DigestScheme),
    /// HMAC-SHA256 under the keyring's only import secret.
    OnlySecret,
}

/// What happened to each key, and how the import was confirmed.
#[derive(Debug)]
pub struct ImportReply {
    /// One result for each key, in order.
    pub results: Vec<ImportResult>,
    /// The confirmed change.
    pub committed: CommittedChange,
    /// How the import was confirmed. `None` for a dry run.
    pub receipt: Option<Receipt>,
}

/// What happened to one key.
#[derive(Debug)]
pub enum ImportResult {
    /// The store decided.
    Decided(ImportOutcome),
    /// A field is wrong.
    Bad(FieldError),
}

impl Service {
    /// Imports keys, and returns after every instance finds them.
    pub async fn import(
        self: &Arc<Self>,
        caller: &Caller,
        import: ImportKeys,
    ) -> Result<ImportReply, ServiceError> {
        if self.foreign_formats.is_empty() {
            return Err(ServiceError::NoForeignFormat);
        }
        let draw = |_| KeyId::draw(self.store_time(), &*self.entropy);
        let mut ids: Vec<_> = import.keys.iter().map(draw).collect();
        // A list is in the order of the ids, which is then that of the call.
        ids.sort_unstable();
        let (mut keys, mut results) = (Vec::new(), Vec::new());
        for (key, id) in import.keys.into_iter().zip(ids) {
            match key.and_then(|key| self.prepared(key, id)) {
                Ok(key) => {
                    // The store's answer takes this place.
                    results.push(ImportResult::Decided(ImportOutcome::Imported(key.id)));
                    keys.push(key);
                }
                Err(error) => results.push(ImportResult::Bad(error)),
            }
        }
        let import = Import {
            batch: import.batch,
            keys,
            dry_run: import.dry_run,
        };
        let actor = caller.actor();
        self.change(|service| async move { service.import_now(import, results, &actor).await })
            .await
    }

    async fn import_now(
        &self,
        import: Import,
        mut results: Vec<ImportResult>,
        actor: &Actor,
    ) -> Result<ImportReply, ServiceError> {
        let dry_run = import.dry_run;
        let stored = {
            // A transaction with a thousand keys delays the writes of others. Never two in a row.
            let _turn = self.imports.lock().await;
            self.store.import(import, actor).await?
        };
        // I7: the wait counts from the answer of the commit, which is later than the commit.
        let answered_at = self.clock.boot();
        let decided = results
            .iter_mut()
            .filter(|result| matches!(result, ImportResult::Decided(_)));
        for (result, outcome) in decided.zip(stored.outcomes) {
            *result = ImportResult::Decided(outcome);
        }
        if dry_run {
            return Ok(ImportReply {
                results,
                committed: CommittedChange::NOTHING,
                receipt: None,
            });
        }
        // No cache shared by instances has foreign keys.
        let receipt = self
            .barrier
            .wait(stored.committed, &[], answered_at)
            .await?;
        Ok(ImportReply {
            results,
            committed: stored.committed,
            receipt: Some(receipt),
        })
    }

    /// Checks a key, and computes what the store keeps of it.
    fn prepared(&self, key: ForeignKey, id: KeyId) -> Result<ImportedKey, FieldError> {
        // The limit of `max_key_age` counts from the import, or no old key could move in.
        let now = self.store_time();
        let expire_time = self.limited_end("expire_time", key.expire_time, now)?;
        let not_future = |time| (Timestamp::default()..=now).contains(&time);
        if !key.create_time.is_none_or(not_future) {
            let reason = "must be between 1970 and now";
            return Err(FieldError::new("create_time", reason));
        }
        if key.recoverable && self.forbid_recoverable {
            let reason = "this deployment does not allow recoverable keys";
            return Err(FieldError::new("recoverable", reason));
        }
        let keyring = self.keyring.load_full();
        let (digests, hint) = match &key.given {
            Given::Text(text) => self.digests_and_hint(&keyring, text)?,
            Given::Digest(..) if key.recoverable => {
                return Err(FieldError::new("recoverable", "requires the api_key"));
            }
            Given::Digest(scheme, given) => (
                vec![wrapped(&keyring, *scheme, given)?],
                Hint(String::new()),
            ),
        };
        let sealed = match &key.given {
            Given::Text(text) if key.recoverable => {
                let sealed = self.seal(&keyring, id, &key.account, text);
                let too_long =
                    |_| FieldError::new("recoverable", "the key is too long to be sealed");
                Some(sealed.map_err(too_long)?)
            }
            _ => None,
        };
        let mut digests = digests.into_iter();
        let digest = digests.next().ok_or_else(no_pepper)?;
        Ok(ImportedKey {
            id,
            digest,
            other_digests: digests.collect(),
            hint,
            sealed,
            account: key.account,
            name: key.name,
            scopes: key.scopes,
            metadata: key.metadata,
            networks: key.networks,
            create_time: key.create_time,
            expire_time,
        })
    }

    /// All digests of a text. The store may have it under any of them.
    fn digests_and_hint(
        &self,
        keyring: &Keyring,
        text: &SecretText,
    ) -> Result<(Vec<Digest>, Hint), FieldError> {
        let text = text.expose();
        let format = self
            .foreign_formats
            .iter()
            .find(|format| format.matches(text));
        let Some(format) = format else {
            let names: Vec<_> = self
                .foreign_formats
                .iter()
                .map(|format| format.name())
                .collect();
            let reason = format!("has none of the `foreign_formats`: {}", names.join(", "));
            return Err(FieldError::new("api_key", reason));
        };
        let hint = Hint(format.hint(text).to_owned());
        Ok((keyring.foreign_digests(text).collect(), hint))
    }

    /// Revokes all keys of an import, and returns after the revocation holds everywhere. Also returns how it was
    /// confirmed.
    pub async fn undo_import(
        self: &Arc<Self>,
        caller: &Caller,
        batch: BatchId,
        reason: Option<Reason>,
    ) -> Result<(Revoked, Receipt), ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move {
            let selection = Selection::Batch(batch);
            let revocation = Revocation::Selection { selection, reason };
            let answer = service.store.revoke(revocation, &actor).await?;
            // I7: the wait counts from the answer of the commit, which is later than the commit.
            let answered_at = service.clock.boot();
            let RevokeAnswer::Done(revoked) = answer else {
                return Err(ServiceError::Internal);
            };
            // P2: no reply before the change holds everywhere.
            let confirmation =
                service
                    .barrier
                    .wait(revoked.committed, &revoked.digests, answered_at);
            let receipt = confirmation.await?;
            service.note_revoked(&revoked, receipt, answered_at);
            Ok((*revoked, receipt))
        })
        .await
    }

    /// Lists the keys of all accounts, page by page.
    pub async fn export(
        self: &Arc<Self>,
        include_revoked: bool,
        page_query: PageQuery,
    ) -> Result<(Page<KeyRecord>, KeyUses), ServiceError> {
        let query: [&[u8]; 2] = [b"export", if include_revoked { b"all" } else { b"live" }];
        let list = ListKeys {
            include_revoked,
            ..ListKeys::default()
        };
        self.list_page(list, &query, page_query).await
    }
}

/// The digest under which to store a key that is given by a digest.
fn wrapped(keyring: &Keyring, scheme: GivenScheme, given: &[u8; 32]) -> Result<Digest, FieldError> {
    let wrong = |reason: String| Err(FieldError::new("digest_scheme", reason));
    let scheme = match scheme {
        GivenScheme::Named(scheme) => scheme,
        GivenScheme::OnlySecret => {
            let mut secrets = keyring.import_secrets();
            match (secrets.next(), secrets.next()) {
                (Some(only), None) => DigestScheme::HmacSha256(only),
                (None, _) => return wrong("the keyring has no import secret".to_owned()),
                _ => {
                    return wrong(
                        "the keyring has several import secrets: name one, as in hmac-sha256:1"
                            .to_owned(),
                    );
                }
            }
        }
    };
    match (keyring.wrap(scheme, given), scheme) {
        (Some(digest), _) => Ok(digest),
        (None, DigestScheme::HmacSha256(number)) => {
            wrong(format!("the keyring has no import secret {number}"))
        }
        (None, DigestScheme::Sha256) => Err(no_pepper()),
    }
}

/// Never happens while there is a foreign format: a start without the pepper is refused then.
fn no_pepper() -> FieldError {
    FieldError::new("api_key", "the keyring has no foreign pepper")
}

//! Callers' tokens.

use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::database::{TokenRow, refused};
use super::keys::is_dead;
use super::server::{Transaction, Transport};
use keyward_core::fence::token_lives;
use keyward_core::key::{KeyId, Role, Timestamp, TokenRecord};
use keyward_crypto::Digest;
use keyward_store::plan::{token_created, token_entry};
use keyward_store::{Actor, AuditAction, Found, NewToken, Result, TokenRevoked, Tokens};

#[async_trait]
impl<T: Transport> Tokens for MemoryStore<T> {
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<Option<TokenRecord>> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| tx.create_token(new, &actor);
        self.write("create_token", work).await
    }

    async fn find_tokens(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>> {
        let digests = digests.to_vec();
        let read = move |tx: &mut Transaction<'_>| {
            let found = digests.iter().map(|digest| Found {
                record: tx.database.token_of(digest).map(|row| row.record.clone()),
                stamp: tx.database.stamp(),
            });
            Ok(found.collect())
        };
        self.read("find_token", read).await
    }

    async fn list_tokens(
        &self,
        include_revoked: bool,
        expired_within: Option<Duration>,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>> {
        let read = move |tx: &mut Transaction<'_>| {
            let now = tx.now;
            let records = tx.database.tokens.values().map(|row| &row.record);
            let wanted = records
                .filter(|record| Some(record.id) > after)
                .filter(|record| {
                    include_revoked || !is_dead(record.revoked, record.revoke_time, now)
                })
                .filter(|record| {
                    let end = record.expire_time.unwrap_or(Timestamp::NEVER);
                    expired_within.is_none_or(|within| end.plus(within) > now)
                });
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(wanted.take(limit).cloned().collect())
        };
        self.read("list_tokens", read).await
    }

    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.revoke_token(id, &actor));
        self.write("revoke_token", work).await
    }

    async fn has_tokens(&self) -> Result<bool> {
        self.read("has_tokens", |tx| Ok(!tx.database.tokens.is_empty()))
            .await
    }

    async fn has_admin(&self) -> Result<bool> {
        let read =
            |tx: &mut Transaction<'_>| {
                let mut records = tx.database.tokens.values().map(|row| &row.record);
                let now = tx.now;
                Ok(records
                    .any(|record| token_lives(record, now) && record.roles.contains(Role::Admin)))
            };
        self.read("has_admin", read).await
    }
}

impl Transaction<'_> {
    fn create_token(&mut self, new: NewToken, actor: &Actor) -> Result<Option<TokenRecord>> {
        if self.database.tokens.contains_key(&new.id) {
            return refused("a token with this token_id exists");
        }
        if self.database.token_of(&new.digest).is_some() {
            return Ok(None);
        }
        self.check_usable(new.generation, None)?;
        let record = TokenRecord {
            id: new.id,
            name: new.name,
            roles: new.roles,
            san: new.san,
            create_time: self.now,
            expire_time: new.expiry.end(self.now),
            revoke_time: None,
            revoked: false,
            revision: 0,
        };
        let row = TokenRow {
            record: record.clone(),
            digest: new.digest,
            generation: new.generation,
            mark: None,
        };
        self.database.tokens.insert(record.id, row);
        self.audit(token_created(&record), actor);
        Ok(Some(record))
    }

    fn revoke_token(&mut self, id: KeyId, actor: &Actor) -> Option<TokenRevoked> {
        let record = self.database.tokens.get(&id)?.record.clone();
        let mut read_in = Some(self.database.epoch);
        if !record.revoked {
            read_in = None;
            self.audit(token_entry(AuditAction::TokenRevoke, id, None), actor);
            self.change_token(TokenRecord {
                revoke_time: Some(record.revoke_time.map_or(self.now, |end| end.min(self.now))),
                revoked: true,
                ..record
            });
        }
        let row = self.database.tokens.get(&id)?;
        Some(TokenRevoked {
            record: row.record.clone(),
            committed: row.last_change().read_in(read_in),
        })
    }
}

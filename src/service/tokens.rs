//! Callers' tokens: create, list, revoke.

use std::sync::Arc;

use super::query::page;
use super::{Page, PageQuery, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{FieldError, KeyId, Roles, SecretText, SlotName, TokenRecord};
use keyward_store::NewToken;

/// A new token.
#[derive(Debug)]
pub struct TokenReply {
    /// Its record.
    pub record: TokenRecord,
    /// Its secret, shown once.
    pub secret: SecretText,
}

/// A revoked token, and the proof.
#[derive(Debug)]
pub struct TokenRevokeReply {
    /// Its record.
    pub record: TokenRecord,
    /// How it came to hold everywhere.
    pub receipt: Receipt,
}

impl Service {
    /// Creates a token.
    pub async fn create_token(
        self: &Arc<Self>,
        caller: &Caller,
        name: SlotName,
        roles: Roles,
    ) -> Result<TokenReply, ServiceError> {
        if roles.is_empty() {
            return Err(FieldError::new("roles", "takes at least one role").into());
        }
        let minted = self.keyring.mint(&self.token_prefix, &*self.entropy);
        let new = NewToken {
            id: KeyId::draw(self.store_time(), &*self.entropy),
            digest: minted.digest,
            generation: minted.generation,
            name,
            roles,
        };
        let actor = caller.actor();
        let record = self
            .change(|service| async move { Ok(service.store.create_token(new, &actor).await?) })
            .await?;
        Ok(TokenReply {
            record,
            secret: minted.text,
        })
    }

    /// Shows tokens, page by page.
    pub async fn list_tokens(
        self: &Arc<Self>,
        include_revoked: bool,
        page_query: PageQuery,
    ) -> Result<Page<TokenRecord>, ServiceError> {
        let query: [&[u8]; 2] = [b"tokens", if include_revoked { b"all" } else { b"live" }];
        let limit = page_query.limit()?;
        let after = page_query.after(&query)?;
        let items = self
            .read(|service| async move {
                Ok(service
                    .store
                    .list_tokens(include_revoked, after, limit + 1)
                    .await?)
            })
            .await?;
        Ok(page(items, limit, &query, self.store_time()))
    }

    /// Revokes a token, and returns when that holds everywhere.
    pub async fn revoke_token(
        self: &Arc<Self>,
        caller: &Caller,
        id: KeyId,
    ) -> Result<TokenRevokeReply, ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move {
            let revoked = service.store.revoke_token(id, &actor).await?;
            let answered_at = service.clock.boot();
            let revoked = revoked.ok_or(ServiceError::TokenNotFound)?;
            let confirmed = service.barrier.wait(revoked.committed, &[], answered_at);
            let receipt = confirmed.await?;
            Ok(TokenRevokeReply {
                record: revoked.record,
                receipt,
            })
        })
        .await
    }
}

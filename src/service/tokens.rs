//! The tokens of callers: create, list, revoke. Revoking upholds P2.

use std::sync::Arc;

use super::query::page;
use super::{Page, PageQuery, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{FieldError, KeyId, Roles, San, SecretText, SlotName, TokenRecord};
use keyward_crypto::Digest;
use keyward_store::{Expiry, NewToken};

/// The caller for whom a token is created.
#[derive(Clone, Debug)]
pub struct NewCaller {
    /// The caller's name.
    pub name: SlotName,
    /// What the caller may call.
    pub roles: Roles,
    /// When the token expires.
    pub expiry: Expiry,
    /// The name in the caller's certificate, instead of a secret.
    pub san: Option<San>,
}

/// A new token.
#[derive(Debug)]
pub struct TokenReply {
    /// The record of the token.
    pub record: TokenRecord,
    /// The secret, shown once; `None` for a caller with a certificate.
    pub secret: Option<SecretText>,
}

impl Service {
    /// Creates a token.
    pub async fn create_token(
        self: &Arc<Self>,
        caller: &Caller,
        new: NewCaller,
    ) -> Result<TokenReply, ServiceError> {
        if new.roles.is_empty() {
            return Err(FieldError::new("roles", "must contain at least one role").into());
        }
        let expiry = self.check_expiry(new.expiry)?;
        let (digest, generation, secret) = match &new.san {
            Some(san) => (Digest::of_san(san), None, None),
            None => {
                let minted = self.keyring.load().mint(&self.token_prefix, &*self.entropy);
                (minted.digest, Some(minted.generation), Some(minted.text))
            }
        };
        let new = NewToken {
            id: KeyId::draw(self.store_time(), &*self.entropy),
            digest,
            generation,
            san: new.san,
            name: new.name,
            roles: new.roles,
            expiry,
        };
        let actor = caller.actor();
        let created = self
            .change(|service| async move { Ok(service.store.create_token(new, &actor).await?) })
            .await?;
        let taken = || {
            FieldError::new(
                "san",
                "another caller has this name; revoke its token first",
            )
        };
        let record = created.ok_or_else(taken)?;
        Ok(TokenReply { record, secret })
    }

    /// Lists tokens, page by page.
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
                    .list_tokens(include_revoked, None, after, limit + 1)
                    .await?)
            })
            .await?;
        let id_and_size = |token: &TokenRecord| {
            let name = token.name.as_str().len();
            (token.id, size_of::<TokenRecord>() + name)
        };
        Ok(page(items, id_and_size, limit, &query, self.store_time()))
    }

    /// Revokes a token, and returns after the revocation holds everywhere. Also returns how it was confirmed.
    pub async fn revoke_token(
        self: &Arc<Self>,
        caller: &Caller,
        id: KeyId,
    ) -> Result<(TokenRecord, Receipt), ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move {
            let revoked = service.store.revoke_token(id, &actor).await?;
            // I7: the wait counts from the answer of the commit, which is later than the commit.
            let answered_at = service.clock.boot();
            let revoked = revoked.ok_or(ServiceError::TokenNotFound)?;
            // P2: no reply before the change holds everywhere.
            let confirmation = service.barrier.wait(revoked.committed, &[], answered_at);
            Ok((revoked.record, confirmation.await?))
        })
        .await
    }
}

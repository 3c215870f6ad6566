//! Callers' tokens on SQLite.

use std::time::Duration;

use async_trait::async_trait;

use super::audit::audit;
use super::lookups::lookup;
use super::rows::{self, Columns, token_columns};
use super::{SqliteStore, store_error};
use keyward_core::fence::token_lives;
use keyward_core::key::{KeyId, Role, Timestamp, TokenRecord};
use keyward_crypto::Digest;
use keyward_store::plan::{token_created, token_entry};
use keyward_store::rows::Row as _;
use keyward_store::{Actor, AuditAction, Found, NewToken, Result, TokenRevoked, Tokens, raw};

/// The rows that a digest names. The argument is the prefix of their columns.
macro_rules! known {
    ($t:literal) => {
        concat!("(", $t, "san IS NULL OR ", $t, "revoked = 0)")
    };
}

#[async_trait]
impl Tokens for SqliteStore {
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<Option<TokenRecord>> {
        let mut tx = self.write().await?;
        let now = tx.now;
        let taken = sqlx::query(concat!(
            "SELECT token_id FROM caller_tokens WHERE digest = ? AND ",
            known!("")
        ));
        let taken = taken.bind(new.digest.as_bytes().to_vec());
        if tx.fetch_optional(taken).await?.is_some() {
            tx.rollback().await?;
            return Ok(None);
        }
        let insert = sqlx::query(concat!(
            "INSERT INTO caller_tokens (token_id, digest, generation, san, name, roles, create_time,
                                        expire_time)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING ",
            token_columns!()
        ))
        .bind(rows::id(new.id))
        .bind(new.digest.as_bytes().to_vec())
        .bind(new.generation)
        .bind(new.san.map(|san| san.to_string()))
        .bind(new.name.as_str().to_owned())
        .bind(new.roles.to_text())
        .bind(now.as_micros())
        .bind(new.expiry.end(now).map(Timestamp::as_micros));
        let record = rows::read(&tx.fetch_one(insert).await?)?;
        audit(&mut tx, &token_created(&record), actor).await?;
        tx.commit().await?;
        Ok(Some(record))
    }

    async fn find_tokens(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>> {
        let statement = lookup!(token_columns!(), "caller_tokens", known!("caller_tokens."));
        self.look_up(statement, digests, "token_id").await
    }

    async fn list_tokens(
        &self,
        include_revoked: bool,
        expired_within: Option<Duration>,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>> {
        let found = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            " FROM caller_tokens
              WHERE token_id > ?1
                AND (?2 OR revoke_time IS NULL
                     OR (revoked = 0 AND revoke_time > max((SELECT newest FROM store_clock), ?3)))
                AND (?4 IS NULL OR expire_time IS NULL
                     OR expire_time > max((SELECT newest FROM store_clock), ?3) - ?4)
              ORDER BY token_id LIMIT ?5"
        ))
        .bind(after.map_or_else(Vec::new, rows::id))
        .bind(include_revoked)
        .bind(self.now().as_micros())
        .bind(expired_within.map(raw::micros))
        .bind(limit);
        self.read_all(found).await
    }

    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>> {
        let mut tx = self.write().await?;
        let now = tx.now.as_micros();
        let changed = tx
            .execute(
                sqlx::query(
                    "UPDATE caller_tokens
                SET revoke_time = min(coalesce(revoke_time, ?1), ?1), revoked = 1, changed_by = ?2
              WHERE token_id = ?3 AND revoked = 0",
                )
                .bind(now)
                .bind(actor.name.clone())
                .bind(rows::id(id)),
            )
            .await?;
        let row = tx
            .fetch_optional(
                sqlx::query(concat!(
                    "SELECT ",
                    token_columns!(),
                    " FROM caller_tokens WHERE token_id = ?"
                ))
                .bind(rows::id(id)),
            )
            .await?;
        if changed > 0 {
            audit(
                &mut tx,
                &token_entry(AuditAction::TokenRevoke, id, None),
                actor,
            )
            .await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        row.map(|row| {
            Ok(TokenRevoked {
                record: rows::read(&row)?,
                committed: Columns(&row).last_change("token_id")?,
            })
        })
        .transpose()
    }

    async fn has_tokens(&self) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM caller_tokens)")
            .fetch_one(&self.readers)
            .await
            .map_err(store_error)
    }

    async fn has_admin(&self) -> Result<bool> {
        let (tokens, now) = (
            self.list_tokens(false, Some(Duration::ZERO), None, u32::MAX)
                .await?,
            self.now(),
        );
        Ok(tokens
            .iter()
            .any(|token| token_lives(token, now) && token.roles.contains(Role::Admin)))
    }
}

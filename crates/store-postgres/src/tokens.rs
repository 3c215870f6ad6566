//! Callers' tokens on Postgres.

use std::time::Duration;

use async_trait::async_trait;

use super::PostgresStore;
use super::audit::audit;
use super::failure::Failure;
use super::locks::LockedRow;
use super::log::epoch;
use super::lookups::lookup;
use super::rows::{self, token_columns};
use keyward_core::key::{KeyId, TokenRecord};
use keyward_crypto::Digest;
use keyward_store::plan::{token_created, token_entry};
use keyward_store::{Actor, AuditAction, Found, NewToken, Result, TokenRevoked, Tokens};

/// The rows that a digest names. The argument is the prefix of their columns.
macro_rules! known {
    ($t:literal) => {
        concat!("(", $t, "san IS NULL OR NOT ", $t, "revoked)")
    };
}

#[async_trait]
impl Tokens for PostgresStore {
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<Option<TokenRecord>> {
        let (at, after) = rows::expiry(new.expiry)?;
        let insert = sqlx::query(concat!(
            "INSERT INTO caller_tokens (token_id, digest, generation, san, name, roles, create_time,
                                        expire_time)
             SELECT $1, $2, $3, $4, $5, $6, now, coalesce($7, now + $8)
               FROM (SELECT store_time() AS now) AS clock
                 ON CONFLICT (digest) WHERE ",
            known!(""),
            " DO NOTHING RETURNING ",
            token_columns!()
        ))
        .bind(rows::uuid(new.id))
        .bind(new.digest.as_bytes().to_vec())
        .bind(new.generation.map(i64::from))
        .bind(new.san.map(|san| san.to_string()))
        .bind(new.name.as_str().to_owned())
        .bind(new.roles.to_text())
        .bind(at)
        .bind(after);
        let mut lease = self.inserters.begin().await?;
        let Some(row) = lease.fetch_optional(insert).await? else {
            lease.rollback().await?;
            return Ok(None);
        };
        let record = rows::read(&row)?;
        audit(&mut lease, &[(token_created(&record), actor.clone())]).await?;
        lease.commit().await?;
        Ok(Some(record))
    }

    async fn find_tokens(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>> {
        let statement = lookup!(token_columns!("t."), "caller_tokens", known!("t."));
        self.look_up(statement, digests, "token_id").await
    }

    async fn list_tokens(
        &self,
        include_revoked: bool,
        expired_within: Option<Duration>,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>> {
        let statement = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            " FROM caller_tokens
              WHERE ($1::uuid IS NULL OR token_id > $1)
                AND ($2 OR revoke_time IS NULL
                     OR (NOT revoked AND revoke_time > (SELECT store_time())))
                AND ($3::interval IS NULL OR expire_time IS NULL
                     OR expire_time > (SELECT store_time()) - $3)
              ORDER BY token_id LIMIT $4"
        ))
        .bind(after.map(rows::uuid))
        .bind(include_revoked)
        .bind(expired_within.map(rows::interval))
        .bind(i64::from(limit));
        let found = self.readers.fetch_all(statement).await?;
        found.iter().map(rows::read).collect()
    }

    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>> {
        self.locks.retry(|| self.try_revoke_token(id, actor)).await
    }

    async fn has_tokens(&self) -> Result<bool> {
        let any = sqlx::query("SELECT token_id FROM caller_tokens LIMIT 1");
        Ok(self.readers.fetch_optional(any).await?.is_some())
    }

    async fn has_admin(&self) -> Result<bool> {
        let any = sqlx::query(
            "SELECT token_id FROM caller_tokens, (SELECT store_time() AS now) AS clock
              WHERE NOT revoked AND (revoke_time IS NULL OR revoke_time > now)
                AND (expire_time IS NULL OR expire_time > now)
                AND 'admin' = ANY (string_to_array(roles, ',')) LIMIT 1",
        );
        Ok(self.readers.fetch_optional(any).await?.is_some())
    }
}

impl PostgresStore {
    async fn try_revoke_token(
        &self,
        id: KeyId,
        actor: &Actor,
    ) -> Result<Option<TokenRevoked>, Failure> {
        let mut lease = self.writers.begin().await?;
        let revoke = sqlx::query(
            "WITH live AS MATERIALIZED (
                 SELECT token_id FROM caller_tokens
                  WHERE token_id = $1 AND NOT revoked FOR UPDATE SKIP LOCKED)
             UPDATE caller_tokens AS t
                SET revoke_time = least(revoke_time, store_time()), revoked = true, changed_by = $2
               FROM live WHERE t.token_id = live.token_id",
        )
        .bind(rows::uuid(id))
        .bind(actor.name.clone());
        let changed = lease.execute(revoke).await?;
        let read = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            " FROM caller_tokens WHERE token_id = $1"
        ));
        let row = lease.fetch_optional(read.bind(rows::uuid(id))).await?;
        let mut read_in = None;
        if changed > 0 {
            let entry = token_entry(AuditAction::TokenRevoke, id, None);
            audit(&mut lease, &[(entry, actor.clone())]).await?;
            lease.commit().await?;
            self.announce();
        } else {
            read_in = Some(epoch(&mut lease).await?);
            lease.rollback().await?;
        }
        let Some(row) = row else { return Ok(None) };
        let record: TokenRecord = rows::read(&row)?;
        // A later end is no revocation: another session has the row.
        if !record.revoked {
            return Err(Failure::locked(LockedRow::Token(rows::uuid(id))));
        }
        Ok(Some(TokenRevoked {
            record,
            committed: rows::last_change(&row, "token_id")?.read_in(read_in),
        }))
    }
}

//! Revokes all keys of an account or of an import on SQLite, in steps, between which other changes are
//! written.

use super::rows::{self, Columns};
use super::{SqliteStore, Statement, store_error};
use keyward_core::key::{KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::rows::Row as _;
use keyward_store::selection::{PASSES, STEP, SelectionProgress};
use keyward_store::{Actor, CommittedChange, Result, RevokeAnswer, Selection, raw};

use super::keys::id_query;

/// The statements about one kind of selection. Parameter 1 names it.
struct Statements {
    /// Writes an audit entry for each key of a step. The parameters are the selection, the key before
    /// the step, the time and the limit; then actor, detail and origin.
    audit: &'static str,
    /// Revokes the keys of a step. The same parameters; then the reason and the actor.
    revoke: &'static str,
    /// Whether a key is live, and otherwise the latest change that matters to the selection.
    latest: &'static str,
}

/// The statements about the keys that fulfil `$selected`. `$changes` has their latest change.
macro_rules! statements {
    ($selected:literal, $changes:literal) => {
        Statements {
            audit: concat!(
                "INSERT INTO audit (time, actor_id, actor, action, subject_id, account_id, detail, peer,
                        client, request_id)
                 SELECT ?3, ?5, ?6, 'revoke', key_id, account_id, ?7, ?8, ?9, ?10 FROM api_keys
                  WHERE ",
                $selected,
                " AND key_id > ?2 AND revoked = 0 ORDER BY key_id LIMIT ?4"
            ),
            revoke: concat!(
                "UPDATE api_keys SET revoke_time = min(coalesce(revoke_time, ?3), ?3), revoked = 1,
                        revoke_reason = coalesce(revoke_reason, ?5),
                        changed_by = ?6
                  WHERE key_id IN (
                     SELECT key_id FROM api_keys
                      WHERE ",
                $selected,
                " AND key_id > ?2 AND revoked = 0 ORDER BY key_id LIMIT ?4) RETURNING key_id"
            ),
            latest: concat!(
                "WITH live AS MATERIALIZED (
                     SELECT 1 FROM api_keys WHERE ",
                $selected,
                " AND revoked = 0 LIMIT 1)
                 SELECT EXISTS (SELECT 1 FROM live) AS live, latest.*
                   FROM (SELECT 1)
                   LEFT JOIN (SELECT key_id, revision, mark FROM ",
                $changes,
                " AND NOT EXISTS (SELECT 1 FROM live)
                               ORDER BY revision DESC LIMIT 1) AS latest"
            ),
        }
    };
}

static OF_ACCOUNT: Statements = statements!("account_id = ?1", "api_keys WHERE account_id = ?1");
// The rows of an import that are revoked have no index. The head of the log is no earlier.
static OF_BATCH: Statements = statements!("import_batch = ?1", "key_changes WHERE ?1 IS NOT NULL");

/// The statements about a selection, and how to bind its name.
fn parts(selection: &Selection) -> (&'static Statements, impl Fn(Statement) -> Statement) {
    let statements = match selection {
        Selection::Account(_) => &OF_ACCOUNT,
        Selection::Batch(_) => &OF_BATCH,
    };
    let bound = move |statement: Statement| match selection {
        Selection::Account(account) => statement.bind(account.as_str().to_owned()),
        Selection::Batch(batch) => statement.bind(batch.as_bytes().to_vec()),
    };
    (statements, bound)
}

impl SqliteStore {
    pub(super) async fn revoke_selection(
        &self,
        selection: &Selection,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let mut progress = SelectionProgress::default();
        let steps = self.revoke_in_steps(selection, reason, actor, &mut progress);
        steps.await.map_err(|error| progress.failed(error))
    }

    async fn revoke_in_steps(
        &self,
        selection: &Selection,
        reason: Option<&Reason>,
        actor: &Actor,
        progress: &mut SelectionProgress,
    ) -> Result<RevokeAnswer> {
        for _ in 0..PASSES {
            let mut after = Vec::new();
            loop {
                let revoked = self.step(selection, reason, actor, &after).await?;
                progress.add(&revoked);
                match revoked.last() {
                    Some(last) if revoked.len() == STEP => after = rows::id(*last),
                    _ => break,
                }
            }
            // Keys may have been added meanwhile: no key of the selection may be live in the read that
            // ends this call.
            if let Some(committed) = self.latest_change(selection).await? {
                let (keys, digests) = self.read_listed(&progress.listed).await?;
                return Ok(progress.done(keys, digests, committed));
            }
        }
        Err(SelectionProgress::overtaken())
    }

    /// One step: revokes the first live keys after `after`, in one transaction.
    async fn step(
        &self,
        selection: &Selection,
        reason: Option<&Reason>,
        actor: &Actor,
        after: &[u8],
    ) -> Result<Vec<KeyId>> {
        let mut tx = self.write().await?;
        let (now, limit) = (tx.now.as_micros(), raw::limit(STEP));
        let (statements, bound) = parts(selection);
        let audited = bound(sqlx::query(statements.audit))
            .bind(after.to_vec())
            .bind(now)
            .bind(limit)
            .bind(actor.token.map(rows::id))
            .bind(actor.name.clone())
            .bind(selection.audit_detail())
            .bind(actor.origin.peer.clone())
            .bind(actor.origin.client.clone())
            .bind(actor.origin.request.clone());
        if tx.execute(audited).await? == 0 {
            tx.rollback().await?;
            return Ok(Vec::new());
        }
        let revoked = bound(sqlx::query(statements.revoke))
            .bind(after.to_vec())
            .bind(now)
            .bind(limit)
            .bind(reason.map(|reason| reason.as_str().to_owned()))
            .bind(actor.name.clone())
            .fetch_all(tx.connection()?)
            .await
            .map_err(store_error)?;
        tx.commit().await?;
        let mut ids = revoked
            .iter()
            .map(|row| Columns(row).id("key_id"))
            .collect::<Result<Vec<_>>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// The latest change of the selected keys, including keys that were revoked before. `None` if a
    /// selected key is live in the same snapshot.
    pub(super) async fn latest_change(
        &self,
        selection: &Selection,
    ) -> Result<Option<CommittedChange>> {
        let (statements, bound) = parts(selection);
        let latest = bound(sqlx::query(statements.latest))
            .fetch_one(&self.readers)
            .await
            .map_err(store_error)?;
        if rows::column(&latest, "live")? {
            return Ok(None);
        }
        Columns(&latest).last_change("key_id").map(Some)
    }

    /// The current records of the listed keys, and their digests.
    async fn read_listed(&self, ids: &[KeyId]) -> Result<(Vec<KeyRecord>, Vec<Digest>)> {
        let (mut keys, mut digests) = (Vec::new(), Vec::new());
        for id in ids {
            let row = id_query(*id).fetch_optional(&self.readers).await;
            // A key may have been deleted manually.
            if let Some(row) = row.map_err(store_error)? {
                keys.push(rows::read(&row)?);
                digests.push(rows::read(&row)?);
            }
        }
        Ok((keys, digests))
    }
}

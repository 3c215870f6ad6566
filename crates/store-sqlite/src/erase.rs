//! Erases the personal data of an account on SQLite, in steps, between which other changes are written.

use super::audit::audit;
use super::{SqliteStore, rows};
use keyward_core::key::AccountId;
use keyward_store::selection::STEP;
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Erasure, Result, Selection, raw,
};

/// The keys of one step of an erasure. The parameters are the account, the pseudonym, the limit and the
/// caller's name.
macro_rules! erasable {
    () => {
        "SELECT key_id FROM api_keys WHERE account_id = ?1 AND revoked = 1 ORDER BY key_id LIMIT ?3"
    };
}

/// The statements of one step of an erasure. The last one changes the keys.
const ERASE: [&str; 3] = [
    concat!(
        "DELETE FROM key_uses WHERE ?2 IS NOT NULL AND ?4 IS NOT NULL AND key_id IN (",
        erasable!(),
        ")"
    ),
    concat!(
        "UPDATE audit SET account_id = ?2, peer = NULL, client = NULL, request_id = NULL, salt = NULL
          WHERE account_id = ?1 AND ?4 IS NOT NULL AND subject_id IN (",
        erasable!(),
        ")"
    ),
    concat!(
        "UPDATE api_keys
            SET account_id = ?2, name = ?2, metadata = '{}', allowed_cidrs = '[]',
                revoke_reason = NULL, changed_by = ?4
          WHERE key_id IN (",
        erasable!(),
        ")"
    ),
];

impl SqliteStore {
    /// Erases the revoked keys of an account, in steps. Each is one transaction.
    pub(super) async fn erase_in_steps(
        &self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        let mut count = 0;
        loop {
            let (pseudonym, erased, is_complete) =
                self.erase_step(account, proposed, actor).await?;
            count += erased;
            if erased > 0 && !is_complete {
                continue;
            }
            let committed = match &pseudonym {
                Some(pseudonym) => {
                    let selection = Selection::Account(pseudonym.clone());
                    self.latest_change(&selection).await?
                }
                None => None,
            };
            return Ok(Erasure {
                pseudonym,
                count,
                is_complete,
                committed: committed.unwrap_or(CommittedChange::NOTHING),
            });
        }
    }

    /// One step. Returns the pseudonym, the number of keys, and whether the account has no key any more.
    async fn erase_step(
        &self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<(Option<AccountId>, u64, bool)> {
        let mut tx = self.write().await?;
        let account = account.as_str();
        let begin = sqlx::query(
            "INSERT OR IGNORE INTO erasures (account_id, pseudonym)
             SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM api_keys WHERE account_id = ?1)",
        );
        let begin = begin.bind(account.to_owned());
        let begun = tx.execute(begin.bind(proposed.as_str().to_owned())).await?;
        let read = sqlx::query("SELECT pseudonym FROM erasures WHERE account_id = ?");
        let Some(row) = tx.fetch_optional(read.bind(account.to_owned())).await? else {
            tx.rollback().await?;
            return Ok((None, 0, true));
        };
        let pseudonym = AccountId::new("pseudonym", rows::column(&row, "pseudonym")?)?;
        let mut erased = 0;
        for statement in ERASE {
            let statement = sqlx::query(statement)
                .bind(account.to_owned())
                .bind(pseudonym.as_str().to_owned())
                .bind(raw::limit(STEP))
                .bind(actor.name.clone());
            erased = tx.execute(statement).await?;
        }
        let any = sqlx::query("SELECT 1 FROM api_keys WHERE account_id = ? LIMIT 1");
        let rest = tx.fetch_optional(any.bind(account.to_owned())).await?;
        if rest.is_none() {
            let end = sqlx::query("DELETE FROM erasures WHERE account_id = ?");
            tx.execute(end.bind(account.to_owned())).await?;
        }
        if begun > 0 {
            let entry = AuditEntry {
                action: AuditAction::AccountErase,
                id: None,
                account: Some(pseudonym.clone()),
                detail: None,
            };
            audit(&mut tx, &entry, actor).await?;
        }
        tx.commit().await?;
        Ok((Some(pseudonym), erased, rest.is_none()))
    }
}

//! Erases the personal data of an account, in steps.

use super::failure::Failure;
use super::{PostgresStore, rows};
use keyward_core::key::AccountId;
use keyward_store::{Actor, CommittedChange, Erasure, Result, Selection};

impl PostgresStore {
    /// Erases the revoked keys of an account, in steps. Each is one transaction.
    pub(super) async fn erase_in_steps(
        &self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        let mut count = 0;
        loop {
            let statement = sqlx::query("SELECT * FROM erase_account($1, $2, $3, $4, $5, $6, $7)")
                .bind(account.as_str().to_owned())
                .bind(proposed.as_str().to_owned())
                .bind(actor.token.map(rows::uuid))
                .bind(actor.name.clone())
                .bind(actor.origin.peer.clone())
                .bind(actor.origin.client.clone())
                .bind(actor.origin.request.clone());
            let step = self.writers.fetch_all(statement).await;
            let step = step.map_err(Failure::of_a_commit)?;
            let step = rows::first(&step)?;
            let (erased, remaining) = (
                rows::revision(step, "erased")?,
                rows::revision(step, "remaining")?,
            );
            if erased > 0 {
                count += erased;
                self.announce();
            }
            if erased > 0 && remaining > 0 {
                continue;
            }
            let pseudonym: Option<String> = rows::column(step, "pseudonym")?;
            let pseudonym = pseudonym.map(|text| AccountId::new("pseudonym", text));
            let pseudonym = pseudonym.transpose()?;
            let committed = match &pseudonym {
                Some(pseudonym) => {
                    self.selection_state(&Selection::Account(pseudonym.clone()))
                        .await?
                        .1
                }
                None => CommittedChange::NOTHING,
            };
            return Ok(Erasure {
                pseudonym,
                count,
                is_complete: remaining == 0,
                committed,
            });
        }
    }
}

//! The rows of the instances that share the database.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::database::{Database, InstanceRow, refused};
use super::server::{Transaction, Transport};
use keyward_core::fence::{Epoch, Member, Membership, Page, Position, RegistrationId};
use keyward_crypto::KeyName;
use keyward_store::keyring::InstanceKeys;
use keyward_store::{
    ChangeNotice, Cluster, CommittedChange, Confirmed, KnownKey, NewInstance, OnCommit, Result,
    StoreError,
};

#[async_trait]
impl<T: Transport> Cluster for MemoryStore<T> {
    async fn register(&self, instance: &NewInstance) -> Result<()> {
        let (registration, max_staleness) = (instance.registration, instance.max_staleness);
        let keys = InstanceKeys {
            name: instance.name.clone(),
            loaded: instance.loaded.clone(),
        };
        let work = move |tx: &mut Transaction<'_>| {
            let required = |key: &&KnownKey| key.state.is_required();
            let mut required = tx.database.checks.iter().filter(required);
            if let Some(missing) = required.find(|key| !keys.has(key.check.name())) {
                let missing = missing.check.name();
                return Err(StoreError::Unavailable(format!(
                    "this instance lacks {missing}, which every instance needs"
                )));
            }
            // Never an upsert: each registration has a new row.
            if tx.database.instances.contains_key(&registration) {
                return refused("a registration with this id exists");
            }
            let row = InstanceRow {
                beat: 0,
                acked: Position {
                    revision: 0,
                    mark: [0; 8],
                },
                max_staleness,
                confirms: 0,
                keys,
            };
            tx.database.instances.insert(registration, row);
            Ok(())
        };
        self.write("register", work).await
    }

    async fn heartbeat(
        &self,
        registration: RegistrationId,
        acked: Position,
        applied: u64,
    ) -> Result<Option<Page>> {
        let read = move |tx: &mut Transaction<'_>| Ok(tx.page(applied));
        let work = move |tx: &mut Transaction<'_>, page: Page| {
            if tx.database.epoch.timeline != page.epoch.timeline {
                return Err(StoreError::Unavailable("the server has gone".to_owned()));
            }
            let Some(row) = tx.database.instances.get_mut(&registration) else {
                return Ok(None);
            };
            row.beat += 1;
            row.acked = acked;
            Ok(Some(page))
        };
        self.write_after("beat", read, work).await
    }

    async fn acknowledge(&self, registration: RegistrationId, acked: Position) -> Result<()> {
        let work = move |tx: &mut Transaction<'_>| {
            if let Some(row) = tx.database.instances.get_mut(&registration)
                && row.acked.revision < acked.revision
            {
                row.acked = acked;
            }
            Ok(())
        };
        self.write("acknowledge", work).await
    }

    async fn report_keyring(&self, registration: RegistrationId, loaded: &[KeyName]) -> Result<()> {
        let loaded = loaded.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            if let Some(row) = tx.database.instances.get_mut(&registration) {
                row.keys.loaded = loaded;
            }
            Ok(())
        };
        self.write("report_keyring", work).await
    }

    async fn leave(&self, registration: RegistrationId) -> Result<()> {
        let work = move |tx: &mut Transaction<'_>| {
            tx.database.instances.remove(&registration);
            Ok(())
        };
        self.write("leave", work).await
    }

    async fn membership(&self) -> Result<Membership> {
        self.read("roster", |tx| Ok(membership(tx.database))).await
    }

    async fn settle(&self, epoch: Epoch) -> Result<()> {
        let work = move |tx: &mut Transaction<'_>| {
            if tx.database.epoch == epoch {
                tx.database.settled = Some(epoch);
            }
            Ok(())
        };
        self.write("settle", work).await
    }

    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool> {
        let work = move |tx: &mut Transaction<'_>| {
            let instances = &mut tx.database.instances;
            let is_unchanged = instances
                .get(&registration)
                .is_some_and(|row| row.beat == beat);
            if is_unchanged {
                instances.remove(&registration);
            }
            Ok(is_unchanged)
        };
        self.write("reap", work).await
    }

    async fn raise_time_floor(&self) -> Result<Duration> {
        let work = |tx: &mut Transaction<'_>| {
            tx.database.time_floor = tx.now;
            Ok(tx.now.since(tx.clock_time))
        };
        self.write("raise_time_floor", work).await
    }

    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
        once_acked: u64,
    ) -> Result<Confirmed> {
        let changes = changes.to_vec();
        let read = |tx: &mut Transaction<'_>| Ok(membership(tx.database));
        let work = move |tx: &mut Transaction<'_>, membership: Membership| {
            if tx.database.epoch.timeline != membership.epoch.timeline {
                return Err(StoreError::Unavailable("the server has gone".to_owned()));
            }
            let mut others = membership.members.iter();
            let is_due = others
                .all(|member| member.registration == registration || member.acked >= once_acked);
            let row = tx.database.instances.get_mut(&registration);
            let has_written = row.filter(|_| is_due).map(|row| row.confirms += 1);
            let stands = changes.iter().map(|change| tx.database.stands(*change));
            Ok(Confirmed {
                stands: has_written.map(|()| stands.collect()),
                membership,
            })
        };
        self.write_after("confirm", read, work).await
    }

    async fn next_change_notice(&self) -> ChangeNotice {
        if !self.session.is_listening.swap(true, Ordering::Relaxed) {
            return ChangeNotice::Lost;
        }
        loop {
            self.session.notices.notified().await;
            if self.session.transport.carry_notice().await {
                return ChangeNotice::Changed;
            }
        }
    }

    fn set_on_commit(&self, on_commit: OnCommit) {
        // Only the first call has an effect.
        let _ = self.session.on_commit.set(on_commit);
    }
}

fn membership(database: &Database) -> Membership {
    let stands = |acked: Position| database.mark_at(acked.revision) == Some(acked.mark);
    let members = database.instances.iter();
    let members = members.map(|(registration, row)| Member {
        registration: *registration,
        heartbeat: row.beat,
        acked: if stands(row.acked) {
            row.acked.revision
        } else {
            0
        },
        max_staleness: row.max_staleness,
    });
    Membership {
        epoch: database.epoch,
        settled: database.settled,
        has_standby: database.has_standby,
        members: members.collect(),
    }
}

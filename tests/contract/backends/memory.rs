//! The store in memory. It has no SQL; the few queries that cases use to look at the result are
//! answered from the tables.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use keyward_core::fence::Epoch;
use keyward_core::key::{Clock, Entropy, Timestamp};
use keyward_store::{OpenError, Store, TimeRepair};
use keyward_store_memory::{Database, Direct, MemoryStore, Server};

use crate::doubles::Counting;
use crate::world::{Backend, ByHand};

/// One server.
#[derive(Default)]
pub(crate) struct Memory {
    server: OnceLock<Arc<Server>>,
}

pub(crate) async fn fresh() -> Memory {
    Memory::default()
}

#[async_trait]
impl Backend for Memory {
    async fn open(
        &self,
        clock: Arc<dyn Clock>,
        _: &dyn Entropy,
    ) -> Result<Arc<dyn Store>, OpenError> {
        let server = self.server.get_or_init(|| {
            let epoch = Epoch {
                system: 1,
                timeline: 1,
                incarnation: 1,
            };
            // The migrations of the other stores write the first row with the real time, long ago.
            let database = Database::new(epoch, [0; 8], Timestamp::default());
            let entropy = Arc::new(Counting::default());
            Arc::new(Server::new(database, Arc::clone(&clock), entropy))
        });
        let transport = Arc::new(Direct(Arc::clone(server)));
        Ok(Arc::new(MemoryStore::open(transport, clock)))
    }

    async fn connect(&self) -> Box<dyn ByHand> {
        Box::new(Hand(Arc::clone(self.server.get().unwrap())))
    }

    async fn time_repair(&self, _: Arc<dyn Clock>, _: &dyn Entropy) -> Box<dyn TimeRepair> {
        unreachable!("nobody lowers its time")
    }

    fn bytes(&self, _: &[u8]) -> String {
        unreachable!("there is no SQL")
    }

    fn time(&self, _: i64) -> String {
        unreachable!("there is no SQL")
    }

    fn random_bytes(&self) -> (&'static str, &'static str) {
        unreachable!("there is no SQL")
    }

    fn tick(&self) -> &'static str {
        unreachable!("there is no SQL")
    }
}

struct Hand(Arc<Server>);

#[async_trait]
impl ByHand for Hand {
    async fn run(&mut self, sql: &str) -> Result<u64, String> {
        assert_eq!(sql, "UPDATE log_state SET incarnation = incarnation + 1");
        self.0.alter(|database| database.epoch.incarnation += 1);
        Ok(1)
    }

    async fn read(&mut self, sql: &str) -> Vec<String> {
        let database = self.0.copy();
        let keys = database.keys();
        let count = match sql.strip_prefix("SELECT CAST(count(*) AS TEXT) FROM ") {
            Some("api_keys") => keys.count(),
            Some("api_keys WHERE sealed IS NOT NULL") => {
                keys.filter(|key| key.sealed.is_some()).count()
            }
            Some("api_keys WHERE revoke_time IS NULL") => {
                keys.filter(|key| key.record.revoke_time.is_none()).count()
            }
            _ if sql.ends_with("FROM audit ORDER BY id") => {
                let line = |event: &keyward_store::AuditEvent| {
                    let detail = event.detail.as_deref().unwrap_or("-");
                    format!("{} {} {detail}", event.action, event.actor)
                };
                return database.audit.iter().map(line).collect();
            }
            _ => panic!("there is no SQL: {sql}"),
        };
        vec![count.to_string()]
    }
}

//! A service on either store whose audit the test seals and changes.

use std::sync::Arc;
use std::time::Duration;

use keyward::system::{SystemClock, SystemEntropy};
use keyward_crypto::{Active, Keyring, keyring_files};
use keyward_ops::Tasks;
use keyward_proto::v1::{self, AuditFaultKind as FaultKind};
use keyward_store::{Sealing, Store};
use keyward_store_postgres::{Hosts, PostgresStore};
use keyward_testkit::{Client, Cluster, Local, Options, Postgres};
use parking_lot::Mutex;
use tonic::Status;

use crate::by_hand;

/// A service whose audit the test seals and changes.
pub(super) struct World {
    pub(super) local: Local,
    pub(super) client: Client,
    store: Arc<dyn Store>,
    /// `None` for SQLite.
    pub(super) cluster: Option<Cluster>,
}

impl World {
    pub(super) async fn sqlite() -> Self {
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let around = move |store: Arc<dyn Store>| {
            *keep.lock() = Some(Arc::clone(&store));
            store
        };
        let trust = |settings: &mut keyward::config::Settings| {
            let proxies = keyward_guard::TrustedProxies::new(["127.0.0.1"]);
            settings.trusted_proxies = proxies.unwrap();
        };
        let local = Local::start_with(trust, around).await;
        Self {
            client: local.client().await,
            local,
            store: kept.lock().take().unwrap(),
            cluster: None,
        }
    }

    pub(super) async fn postgres() -> Self {
        let cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, Options::default());
        let local = cluster.local().await;
        let hosts = Hosts {
            options: vec![cluster.postgres.service_url().parse().unwrap()],
            password_file: None,
            failover_loses_nothing: false,
        };
        let clock = Arc::new(SystemClock);
        let staleness = cluster.max_staleness();
        let store = PostgresStore::open(&hosts, staleness, clock, &Tasks::default()).await;
        Self {
            client: local.client().await,
            local,
            store: Arc::new(store.unwrap()),
            cluster: Some(cluster),
        }
    }

    pub(super) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    pub(super) fn keyring(&self) -> std::path::PathBuf {
        match &self.cluster {
            Some(cluster) => cluster.keyring(),
            None => self.local.directory.path().join("keyring"),
        }
    }

    /// Seals with the audit key of this number. Returns the seal as the log shows it.
    pub(super) async fn seal(&self, version: u32) -> String {
        let material = keyring_files::load(&self.keyring()).unwrap();
        let keyring = Keyring::new(&material, Active::default()).unwrap();
        let sealing = Sealing {
            key: keyring.audit_key_of(version).unwrap(),
            entropy: Arc::new(SystemEntropy),
            pause: Duration::ZERO,
        };
        let sealed = self.store.seal_events(&sealing).await.unwrap();
        sealed.expect("there are events to seal").0.to_string()
    }

    /// Runs SQL by hand, with no trigger in its way.
    pub(super) async fn tamper(&self, sql: &str) {
        match &self.cluster {
            Some(cluster) => {
                let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
                let sql = format!("SET session_replication_role = 'replica'; {sql}");
                let off = "ALTER TABLE audit DISABLE TRIGGER USER; \
                           ALTER TABLE audit_seals DISABLE TRIGGER USER;";
                let sql = sqlx::AssertSqlSafe(format!("{off} {sql}"));
                sqlx::raw_sql(sql).execute(&mut hand).await.unwrap();
            }
            None => {
                let off = "DROP TRIGGER IF EXISTS audit_fixed; DROP TRIGGER IF EXISTS audit_deleted; \
                           DROP TRIGGER IF EXISTS audit_seals_deleted;";
                by_hand(&self.local, &format!("{off} {sql}")).await;
            }
        }
    }

    pub(super) async fn list(&self, request: v1::ListAuditEventsRequest) -> Vec<v1::AuditEvent> {
        self.client.send(request).await.unwrap().events
    }

    /// The newest event.
    pub(super) async fn newest(&self) -> v1::AuditEvent {
        let request = v1::ListAuditEventsRequest {
            newest_first: true,
            page_size: 1,
            ..Default::default()
        };
        self.list(request).await.remove(0)
    }

    /// Checks the whole chain.
    pub(super) async fn verify(&self, head: &str) -> Result<v1::VerifyAuditResponse, Status> {
        let mut request = v1::VerifyAuditRequest {
            head: head.to_owned(),
            ..Default::default()
        };
        loop {
            let answer = self.client.send(request.clone()).await?;
            if answer.next_page_token.is_empty() {
                return Ok(answer);
            }
            request.page_token = answer.next_page_token;
        }
    }

    /// The kind of the fault.
    pub(super) async fn fault(&self, head: &str) -> Option<FaultKind> {
        let answer = self.verify(head).await.unwrap();
        answer.fault.map(|fault| fault.kind())
    }
}

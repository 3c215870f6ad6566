//! Opens the store that the settings name.

use std::sync::Arc;

use super::{StartError, bootstrap};
use crate::config::{self, PostgresUrls, Settings};
use keyward_core::key::{Clock, Entropy};
use keyward_ops::{Metrics, Tasks};
use keyward_store::{Instrumentation, Intercepted, Store};
use keyward_store_postgres::{Hosts, PostgresStore};
use keyward_store_sqlite::SqliteStore;

pub(super) async fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    entropy: &dyn Entropy,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<Arc<dyn Store>, StartError> {
    let (system, store): (_, Arc<dyn Store>) = match &settings.store {
        config::Store::Sqlite(path) => {
            bootstrap::directory(&settings.data_dir)?;
            let store = SqliteStore::open(path, Arc::clone(clock), entropy).await?;
            ("sqlite", Arc::new(store))
        }
        config::Store::Postgres(urls) => {
            let (hosts, clock) = (hosts(urls, settings), Arc::clone(clock));
            let store = PostgresStore::open(&hosts, settings.max_staleness, clock, tasks).await?;
            ("postgresql", Arc::new(store))
        }
    };
    let instrumentation = Instrumentation::new(system, Arc::clone(clock), Arc::clone(metrics));
    Ok(Arc::new(Intercepted::new(store, Arc::new(instrumentation))))
}

/// The hosts of a Postgres store, and how to log in there.
pub(super) fn hosts(urls: &PostgresUrls, settings: &Settings) -> Hosts {
    Hosts {
        options: urls.hosts().to_vec(),
        password_file: settings.store_password_file.clone(),
        failover_loses_nothing: settings.failover_loses_nothing,
    }
}

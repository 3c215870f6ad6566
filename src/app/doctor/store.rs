//! Examines the store: whether it answers, its schema, the rights of the service's role, and its time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::key::{Clock, Timestamp};
use keyward_ops::Tasks;
use keyward_ops::findings::Findings;
use keyward_store::{Log as _, Store};
use keyward_store_postgres::{PostgresStore, Server};
use keyward_store_sqlite::{SqliteStore, holder};

use crate::app::store::hosts;
use crate::config::{self, PostgresUrls, Settings};
use crate::replication::{MACHINE_TOLERANCE, time_warning};

/// Returns the store if more can be examined with it.
pub(super) async fn examine(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    found: &mut Findings,
) -> Option<Box<dyn Store>> {
    match &settings.store {
        config::Store::Sqlite(path) => embedded(path, clock, found).await,
        config::Store::Postgres(urls) => shared(settings, urls, clock, found).await,
    }
}

async fn embedded(
    path: &Path,
    clock: &Arc<dyn Clock>,
    found: &mut Findings,
) -> Option<Box<dyn Store>> {
    let shown = path.display();
    if !path.exists() {
        found.ok(
            "store",
            format!("{shown} does not exist; the first start creates it"),
        );
        return None;
    }
    let holder = match holder(path) {
        Ok(holder) => holder,
        Err(error) => {
            let text = format!(
                "{shown} cannot be read: {error}. Run this command as the user of the service"
            );
            found.error("store", text);
            return None;
        }
    };
    let state = match holder {
        Some(process) => format!("in use by process {process}"),
        None => "in use by no process".to_owned(),
    };
    match SqliteStore::examine(path, Arc::clone(clock)).await {
        Ok(Some(store)) => {
            found.ok(
                "store",
                format!("{shown} has the schema of this program; {state}"),
            );
            match store.tail(0).await {
                Ok(page) => {
                    let ahead = page.database_time.since(clock.wall());
                    time(None, ahead, Duration::ZERO, found);
                }
                Err(error) => found.error("store", error),
            }
            Some(Box::new(store))
        }
        Ok(None) => {
            let text = format!("{shown} has an older schema; the next start updates it; {state}");
            found.ok("store", text);
            None
        }
        Err(error) => {
            found.error("store", error);
            None
        }
    }
}

async fn shared(
    settings: &Settings,
    urls: &PostgresUrls,
    clock: &Arc<dyn Clock>,
    found: &mut Findings,
) -> Option<Box<dyn Store>> {
    let hosts = hosts(urls, settings);
    let tasks = Tasks::default();
    let store =
        PostgresStore::open(&hosts, settings.max_staleness, Arc::clone(clock), &tasks).await;
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            found.error("store", error);
            return None;
        }
    };
    let missing = match store.missing_rights().await {
        Ok(missing) => missing,
        Err(error) => {
            found.error("store", error);
            return None;
        }
    };
    if !missing.is_empty() {
        let text = format!(
            "the role in `store` lacks rights: {}. Run `keyward migrate --service-role ROLE` with the \
             owner's URL in `store`",
            missing.join(", ")
        );
        found.error("store", text);
        return None;
    }
    let before = clock.wall();
    match store.server().await {
        Ok(server) => described(&server, before, clock.wall(), found),
        Err(error) => found.error("store", error),
    }
    Some(Box::new(store))
}

/// Says what `server` said between the times `before` and `after` of this machine.
fn described(server: &Server, before: Timestamp, after: Timestamp, found: &mut Findings) {
    let Server { version, role, .. } = server;
    let earlier = found.0.len();
    if !server.is_supported {
        let text = format!("Postgres {version} is too old. Upgrade the server to 15 or later");
        found.error("store", text);
    }
    if !server.is_durable {
        found.error(
            "store",
            "a crash of this server loses commits. Run `ALTER SYSTEM RESET fsync`, `ALTER SYSTEM RESET \
             full_page_writes` and `SELECT pg_reload_conf()`",
        );
    }
    if server.owns_schema {
        let text = format!(
            "the role {role} owns the tables, so the schema cannot protect the log from this service. Run \
             `keyward migrate --service-role ROLE` with this URL, and set `store` to the URL of that role"
        );
        found.warn("store", text);
    }
    if found.0.len() == earlier {
        let text =
            format!("Postgres {version}, a primary; the role {role} has the rights to serve");
        found.ok("store", text);
    }
    let floor = server.floor.since(server.clock);
    let store_time = server.clock.max(server.floor);
    let behind = before.since(server.clock);
    time(Some(floor), store_time.since(after), behind, found);
}

/// Compares the store's time, which may be ahead of the server's clock by `floor`. It is ahead of this machine's
/// clock by `ahead`, or behind by `behind`.
fn time(floor: Option<Duration>, ahead: Duration, behind: Duration, found: &mut Findings) {
    if let Some(warning) = time_warning(floor, ahead) {
        found.warn("clock", warning);
    } else if behind > MACHINE_TOLERANCE {
        let text = format!(
            "this machine's clock is {} s ahead of the store's server. Find the wrong clock, and run \
             `timedatectl set-ntp true` there",
            behind.as_secs()
        );
        found.warn("clock", text);
    } else {
        found.ok("clock", "this machine and the store agree");
    }
}

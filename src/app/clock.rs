//! The operator's command that lowers the store's time after a clock was ahead. No instance may use the
//! store meanwhile: an instance never lets its own time fall.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use super::operations::{hosts, owner, run};
use crate::config::{Settings, Store};
use crate::system::{SystemClock, SystemEntropy};
use keyward_core::fence::FailureDetector;
use keyward_core::key::{Clock as _, Timestamp};
use keyward_ops::Tasks;
use keyward_store::{Cluster, ExpiringKeys, Store as _, TimeRepair, TimeSurvey};
use keyward_store_postgres::PostgresStore;
use keyward_store_sqlite::SqliteStore;

/// The interval between reads of the instances.
const POLL: Duration = Duration::from_secs(1);

/// Lowers the store's time to the clock of its server, after all graces were ended. `revoke_expired` says
/// what becomes of keys and tokens that have expired by the store's time and not by the clock; without a
/// decision the time is not lowered if there are any.
///
/// # Errors
///
/// Why the time was not lowered, and what to do.
pub fn lower_time(
    settings: &Settings,
    reason: &str,
    revoke_expired: Option<bool>,
) -> Result<String, StartError> {
    run(async {
        match &settings.store {
            Store::Sqlite(path) => {
                if !path.exists() {
                    return Err(StartError(format!(
                        "there is no database {}. Check `data_dir` and `store`",
                        path.display()
                    )));
                }
                let clock = Arc::new(SystemClock);
                let mut store = SqliteStore::open(path, clock, &SystemEntropy).await?;
                let outcome = repair(&mut store, reason, revoke_expired).await;
                store.close().await;
                outcome
            }
            Store::Postgres(_) => {
                await_no_instances(settings).await?;
                repair(&mut owner(settings).await?, reason, revoke_expired).await
            }
        }
    })
}

/// Returns when no instance is registered. Deletes the rows of instances that were killed.
async fn await_no_instances(settings: &Settings) -> Result<(), StartError> {
    let (clock, tasks) = (Arc::new(SystemClock), Tasks::default());
    let hosts = hosts(settings)?;
    let staleness = settings.max_staleness;
    let store = PostgresStore::open(&hosts, staleness, clock.clone(), &tasks).await?;
    let outcome = match store.cluster() {
        Some(cluster) => reap_killed(&*cluster, &clock).await,
        None => Ok(()),
    };
    store.close().await;
    outcome
}

async fn reap_killed(cluster: &dyn Cluster, clock: &SystemClock) -> Result<(), StartError> {
    let mut detector = FailureDetector::default();
    let mut first = None;
    loop {
        let membership = cluster.membership().await?;
        let mut members = membership.members.clone();
        members.sort_unstable_by_key(|member| member.registration);
        let seen = first.get_or_insert_with(|| members.clone());
        // A killed instance sends no heartbeat.
        if members.iter().any(|member| !seen.contains(member)) {
            return Err(StartError(format!(
                "{} instances are running. Stop all instances, then run this command again",
                members.len()
            )));
        }
        if members.is_empty() {
            return Ok(());
        }
        for (registration, beat) in detector.observe(&membership, clock.boot()) {
            cluster.reap(registration, beat).await?;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn repair(
    store: &mut dyn TimeRepair,
    reason: &str,
    revoke_expired: Option<bool>,
) -> Result<String, StartError> {
    let survey = store.survey().await?;
    check(&survey, revoke_expired)?;
    let mut graces = 0;
    loop {
        match store.end_all_graces(&survey).await? {
            0 => break,
            ended => graces += ended,
        }
    }
    if revoke_expired == Some(true) {
        while store.revoke_expired(&survey).await? > 0 {}
    }
    store.lower(&survey, reason).await?;
    Ok(report(&survey, revoke_expired, graces))
}

fn check(survey: &TimeSurvey, revoke_expired: Option<bool>) -> Result<(), StartError> {
    let (stored, clock) = (time(survey.stored), time(survey.clock));
    if survey.stored <= survey.clock {
        return Err(StartError(format!(
            "the store's time {stored} is not ahead of the clock, which shows {clock}. Nothing was changed. \
             If the clock is still ahead, correct it first"
        )));
    }
    if survey.expired.count > 0 && revoke_expired.is_none() {
        return Err(StartError(format!(
            "{} keys and tokens have expired by the store's time {stored}, but not by the clock, which shows {clock}. \
             Nothing was changed. Choose what becomes of them: --expired revoke, or --expired revive\n{}",
            survey.expired.count,
            list(&survey.expired)
        )));
    }
    Ok(())
}

fn report(survey: &TimeSurvey, revoke_expired: Option<bool>, graces: u64) -> String {
    let mut text = format!(
        "the store's time is now {}; it was {}\nended graces: {graces}\n",
        time(survey.clock),
        time(survey.stored)
    );
    let TimeSurvey {
        expired, issued, ..
    } = survey;
    let became = match revoke_expired {
        Some(true) => "revoked, because they had expired",
        _ => "alive again until they expire",
    };
    for (what, keys) in [
        (became, expired),
        (
            "issued by the clock that was ahead; check when they expire",
            issued,
        ),
    ] {
        if keys.count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{} keys and tokens are {what}:\n{}",
                keys.count,
                list(keys)
            );
        }
    }
    text + "Start the instances again"
}

/// One line for each listed key or token.
fn list(keys: &ExpiringKeys) -> String {
    let mut text = String::new();
    for key in &keys.listed {
        let of = match &key.account {
            Some(account) => format!("account {account} name"),
            None => "token of".to_owned(),
        };
        let _ = writeln!(
            text,
            "  {} {of} {} created {} expires {}",
            key.id,
            key.name,
            time(key.create_time),
            time(key.expire_time)
        );
    }
    if keys.count > keys.listed.len() as u64 {
        text += "  ...\n";
    }
    text
}

fn time(time: Timestamp) -> String {
    prost_types::Timestamp {
        seconds: time.as_micros().div_euclid(1_000_000),
        nanos: 0,
    }
    .to_string()
}

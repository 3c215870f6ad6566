//! `keyward doctor`: what would stop a start or an instance, and what an operator should change. It uses the
//! checks of the start and changes nothing, so it can run beside an instance.

mod data_dir;
mod store;

use std::sync::Arc;
use std::time::Duration;

use keyward_core::key::{Clock, Timestamp, TokenRecord};
use keyward_crypto::{KeyKind, Keyring, KeyringError, keyring_files};
use keyward_ops::findings::{Finding, Findings};
use keyward_ops::{Metrics, VERSION, side_port};
use keyward_store::Store;
use serde_json::Value;

use super::bootstrap::{self, SecretPolicy};
use super::components::listener_tls;
use super::{operations, shared_cache, too_few_files};
use crate::auth::expiry::{self, SOON};
use crate::cache::l2;
use crate::config::{self, Settings};
use crate::system::{self, SystemClock};
use crate::webhooks::check_secret;

/// A certificate that ends this soon is worth a warning.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Examines the deployment that `settings` describe.
pub fn doctor(settings: &Settings) -> Vec<Finding> {
    let examined = operations::run(async {
        let mut found = Findings::default();
        examine(settings, &mut found).await;
        Ok(found.0)
    });
    examined.unwrap_or_else(|error| {
        let mut found = Findings::default();
        found.error("doctor", error);
        found.0
    })
}

async fn examine(settings: &Settings, found: &mut Findings) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    machine(settings, found);
    data_dir::examine(settings, found);
    tls(settings, &clock, found);
    webhooks(settings, found);
    let store = store::examine(settings, &clock, found).await;
    let keyring = keyring(settings, store.as_deref(), found).await;
    if let Some(store) = store {
        admin_token(settings, &*store, found).await;
        ending_tokens(&*store, clock.wall(), found).await;
        store.close().await;
    }
    redis(settings, keyring.as_ref(), found).await;
    service(settings, found).await;
}

/// What the settings ask of this machine.
fn machine(settings: &Settings, found: &mut Findings) {
    found.ok("settings", "valid");
    // As `serve` does it.
    system::allow_open_files();
    if let Some(warning) = too_few_files(settings.max_connections) {
        found.warn("settings", warning);
    }
    if settings.insecure {
        found.warn(
            "settings",
            "`insecure` is on: connections to other hosts may run without protection. Set up TLS, then \
             remove `insecure`",
        );
    }
}

fn tls(settings: &Settings, clock: &Arc<dyn Clock>, found: &mut Findings) {
    let metrics = Metrics::new(&[]);
    match listener_tls(settings, clock, &metrics) {
        Ok(None) => found.ok("tls", "off"),
        Ok(Some(_)) => {
            let now = clock.wall().as_micros() / 1_000_000;
            let left = metrics.tls.expire_time.get().saturating_sub(now);
            let left = u64::try_from(left).map(Duration::from_secs);
            let renew = "Renew it; a running instance loads the new files by itself";
            match left {
                Err(_) => found.error(
                    "tls",
                    format!("the certificate has expired, so clients refuse it. {renew}"),
                ),
                Ok(left) if left < CERTIFICATE_ENDS => found.warn(
                    "tls",
                    format!("the certificate expires in {}. {renew}", in_days(left)),
                ),
                Ok(left) => found.ok(
                    "tls",
                    format!(
                        "the certificate and its key fit; it expires in {}",
                        in_days(left)
                    ),
                ),
            }
        }
        Err(error) => found.error("tls", error),
    }
}

/// Without webhooks it says nothing.
fn webhooks(settings: &Settings, found: &mut Findings) {
    for endpoint in &settings.webhooks {
        match check_secret(endpoint) {
            Ok(()) => {
                let (name, url) = (&endpoint.name, &endpoint.url);
                found.ok(
                    "webhooks",
                    format!("{name} to {url} has a secret; `keyward webhook test {name}` asks it"),
                );
            }
            Err(error) => found.error("webhooks", error),
        }
    }
}

/// A time in days, or in hours if it is less than two days.
fn in_days(time: Duration) -> String {
    let hours = time.as_secs() / 3_600;
    match hours {
        0..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}

/// Examines the keyring as far as possible without the store if there is none.
async fn keyring(
    settings: &Settings,
    store: Option<&dyn Store>,
    found: &mut Findings,
) -> Option<Keyring> {
    let embedded = matches!(settings.store, config::Store::Sqlite(_));
    let policy = match embedded {
        true => SecretPolicy::Create,
        false => SecretPolicy::Load,
    };
    let path = settings.keyring.display();
    let Some(store) = store else {
        match keyring_files::load(&settings.keyring) {
            Ok(_) => found.ok(
                "keyring",
                format!("{path} is complete; its store was not examined"),
            ),
            Err(KeyringError::Missing(_)) if embedded => {
                found.ok("keyring", "none yet; the first start creates it");
            }
            Err(error) => found.error("keyring", error),
        }
        return None;
    };
    match bootstrap::find_keyring(settings, store, policy).await {
        Ok(it) => match it.keyring {
            None => found.ok("keyring", "none yet; the next start creates it"),
            Some(keyring) => {
                match bootstrap::check_foreign(settings, &keyring) {
                    Ok(()) => found.ok("keyring", format!("{path}: {}", numbers(&keyring))),
                    Err(error) => found.error("keyring", error),
                }
                return Some(keyring);
            }
        },
        Err(error) => found.error("keyring", error),
    }
    None
}

/// The names of the keys in use.
fn numbers(keyring: &Keyring) -> String {
    let names = keyring.names();
    let names = names.iter().map(|name| {
        let is_active = match name.kind {
            KeyKind::Generation => name.number == keyring.active(),
            KeyKind::Seal => name.number == keyring.active_seal(),
            _ => false,
        };
        format!("{name}{}", if is_active { " (active)" } else { "" })
    });
    names.collect::<Vec<_>>().join(", ")
}

async fn admin_token(settings: &Settings, store: &dyn Store, found: &mut Findings) {
    let (has_tokens, has_admin) = (store.has_tokens().await, store.has_admin().await);
    let file = bootstrap::token_file(settings);
    match (has_tokens, has_admin) {
        (Ok(true), Ok(false)) => {
            let remedy = match settings.store {
                config::Store::Sqlite(_) => format!(
                    "Move {} away and restart: the start creates a token",
                    file.display()
                ),
                config::Store::Postgres(_) => "The runbook says what to do".to_owned(),
            };
            let text = format!("no valid token has the role admin. {remedy}");
            found.warn("token", text);
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) | (_, Err(error)) => found.error("token", error),
    }
}

/// Callers whose last token ends soon, or has just ended.
async fn ending_tokens(store: &dyn Store, now: Timestamp, found: &mut Findings) {
    let Ok(tokens) = expiry::expiring(store).await else {
        // The database's error is a finding already.
        return;
    };
    for token in &tokens {
        let end = token.expire_time.unwrap_or_default();
        if end.since(now) < SOON {
            found.warn("token", ending_token(token, end, now));
        }
    }
}

fn ending_token(token: &TokenRecord, end: Timestamp, now: Timestamp) -> String {
    let TokenRecord { id, name, .. } = token;
    let when = match now < end {
        true => format!("expires in {}", in_days(end.since(now))),
        false => format!("has expired {} ago", in_days(now.since(end))),
    };
    let roles = token.roles.iter();
    let roles: String = roles
        .map(|role| format!(" --role {}", role.name()))
        .collect();
    let create = format!("keyward token create {name}{roles}");
    match &token.san {
        None => format!(
            "the last token of {name}, {id}, {when}. Run `{create} --into FILE`, and give the file to {name}; \
             if {name} is no longer in use, run `keyward token revoke {id}`"
        ),
        Some(san) => format!(
            "the caller {name} with the certificate {san}, {id}, {when}. Run `keyward token revoke {id}`, and if \
             {name} is still in use, `{create} --san {san}`"
        ),
    }
}

async fn redis(settings: &Settings, keyring: Option<&Keyring>, found: &mut Findings) {
    let Some(address) = &settings.redis else {
        return;
    };
    if let Some(keyring) = keyring
        && let Err(error) = shared_cache::cache_key(settings, keyring)
    {
        found.error("redis", error);
    }
    match l2::examine(address.clone()).await {
        Ok(advice) if advice.is_empty() => {
            found.ok("redis", format!("{address} grants every call"))
        }
        Ok(advice) => advice.iter().for_each(|advice| found.warn("redis", advice)),
        // An instance works without Redis.
        Err(why) => found.warn("redis", format!("{address} cannot be used: {why}")),
    }
}

/// Asks the instance of this machine, if it runs.
async fn service(settings: &Settings, found: &mut Findings) {
    let Some(address) = settings.http_listen.filter(|address| address.port() != 0) else {
        return;
    };
    let authority = address.to_string();
    let ask = async |path: &str| side_port::get(&authority, path).await;
    let (Ok((_, version)), Ok((status, ready))) = (ask("/version").await, ask("/readyz").await)
    else {
        found.ok("service", format!("no instance answers on {authority}"));
        return;
    };
    let version: Value = serde_json::from_str(&version).unwrap_or_default();
    let ready = ready.trim_end();
    if version["name"] != "keyward" {
        let text = format!(
            "another program answers on {authority}. Stop it, or set `http_listen` to another address"
        );
        found.error("service", text);
    } else if status != 200 {
        found.error(
            "service",
            format!("the running instance does not serve: {ready}"),
        );
    } else if ready != "ok" {
        found.warn("service", format!("the running instance answers {ready}"));
    } else if version["version"] != VERSION {
        let text = format!(
            "the running instance has version {}, and this program {VERSION}. Restart the instance",
            version["version"].as_str().unwrap_or("unknown")
        );
        found.warn("service", text);
    } else {
        found.ok(
            "service",
            format!("the instance on {authority} is fresh and serves"),
        );
    }
}

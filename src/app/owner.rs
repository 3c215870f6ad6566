//! What an operator does to a shared store by itself, when no instance need serve: moving its
//! schema, making its secrets once, and raising its epoch.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use super::{StartError, bootstrap};
use crate::config::{PostgresUrls, Settings, Store};
use crate::system::{SystemClock, SystemEntropy};
use keyward_core::key::{Prefix, TOKEN_PREFIX};
use keyward_crypto::keyring_files;
use keyward_store::{KeyringChecks as _, Store as _, Tokens as _};
use keyward_store_postgres::{PostgresOwner, PostgresStore};

/// Brings the schema up to date, and gives `service_role` what serving needs. May be repeated.
///
/// # Errors
///
/// One sentence that says what to do.
pub fn migrate(settings: &Settings, service_role: Option<&str>) -> Result<String, StartError> {
    run(async {
        owner(settings)
            .await?
            .migrate(service_role)
            .await
            .map_err(StartError::new)?;
        Ok(schema_line(service_role))
    })
}

/// Prepares a new database: schema, keyring, and one token with every role, in `token_file` or
/// else `admin.token` in the data directory. Overwrites neither; a database that has both is refused,
/// or with `if_new` left as it is.
///
/// # Errors
///
/// One sentence that says what to do.
pub fn init(
    settings: &Settings,
    service_role: Option<&str>,
    token_file: Option<&Path>,
    if_new: bool,
) -> Result<String, StartError> {
    let token = token_file.map_or_else(|| bootstrap::token_file(settings), Path::to_path_buf);
    run(async {
        if !if_new {
            refuse_to_overwrite(&token)?;
        }
        let mut owner = owner(settings).await?;
        owner.migrate(service_role).await.map_err(StartError::new)?;
        owner.settle_first().await.map_err(StartError::new)?;
        match make_secrets(settings, &token).await? {
            Made::Both => {}
            Made::Before if if_new => {
                let schema = schema_line(service_role);
                return Ok(format!(
                    "{schema}\nthe keyring and the tokens were made before"
                ));
            }
            Made::Before => {
                return Err(StartError(
                    "this database has its keyring and tokens already; its schema is up to date"
                        .to_owned(),
                ));
            }
        }
        Ok(format!(
            "{}\nkeyring: {} (back it up: keys die without it; every instance needs a copy)\ntoken: \
             {} (every role; for the first calls and for emergencies)",
            schema_line(service_role),
            settings.keyring.display(),
            token.display()
        ))
    })
}

/// Raises the epoch: the operator accepts the log as it stands after it lost its tail.
///
/// # Errors
///
/// One sentence that says what to do.
pub fn advance_epoch(settings: &Settings, reason: &str) -> Result<String, StartError> {
    run(async {
        let mut owner = owner(settings).await?;
        let incarnation = owner.advance_epoch(reason).await.map_err(StartError::new)?;
        Ok(format!(
            "the epoch is {incarnation} now: instances that had refused begin anew within a second. \
             What was revoked and is lost with the log's tail must be revoked again"
        ))
    })
}

fn schema_line(service_role: Option<&str>) -> String {
    match service_role {
        Some(role) => format!("schema: up to date; the role {role} may serve from it"),
        None => "schema: up to date".to_owned(),
    }
}

fn refuse_to_overwrite(token: &Path) -> Result<(), StartError> {
    match token.exists() {
        false => Ok(()),
        true => Err(StartError(format!(
            "{} exists and is not overwritten: name another file with --token-file, or move it away",
            token.display()
        ))),
    }
}

/// Whether secrets are new.
enum Made {
    /// The keyring and the token are.
    Both,
    /// The database had them; nothing was made.
    Before,
}

async fn make_secrets(settings: &Settings, token: &Path) -> Result<Made, StartError> {
    let (clock, entropy) = (Arc::new(SystemClock), SystemEntropy);
    let urls = urls(settings)?;
    let store = PostgresStore::open(urls.hosts(), settings.max_staleness, clock.clone());
    let store = store.await.map_err(StartError::new)?;
    let known = store.check_values().await.map_err(StartError::new)?;
    if store.has_tokens().await.map_err(StartError::new)? {
        store.close().await;
        return Ok(Made::Before);
    }
    refuse_to_overwrite(token)?;
    let exists = keyring_files::load(&settings.keyring);
    if known.is_empty() && !matches!(exists, Err(keyring_files::KeyringError::Missing { .. })) {
        return Err(StartError(format!(
            "there is a keyring in {} already, which belongs to another database and is not \
             overwritten: name another directory with keyring, or move it away",
            settings.keyring.display()
        )));
    }
    for path in [Some(settings.data_dir.as_path()), token.parent()] {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        path.map_or(Ok(()), bootstrap::directory)?;
    }
    // The keyring first: a token is one of its generation.
    let keyring = bootstrap::keyring(settings, &store, &entropy, bootstrap::May::Make).await?;
    let prefix = Prefix::new(TOKEN_PREFIX).map_err(StartError::new)?;
    let first = bootstrap::FirstToken {
        file: token.to_path_buf(),
        prefix: &prefix,
        keyring: &keyring,
    };
    first.ensure(&store, &*clock, &entropy).await?;
    store.close().await;
    Ok(Made::Both)
}

async fn owner(settings: &Settings) -> Result<PostgresOwner, StartError> {
    let urls = urls(settings)?;
    PostgresOwner::connect(urls.hosts(), Arc::new(SystemClock))
        .await
        .map_err(StartError::new)
}

fn urls(settings: &Settings) -> Result<&PostgresUrls, StartError> {
    match &settings.store {
        Store::Postgres(urls) => Ok(urls),
        Store::Sqlite(_) => Err(StartError(
            "the embedded store needs none of this".to_owned(),
        )),
    }
}

fn run<T>(work: impl Future<Output = Result<T, StartError>>) -> Result<T, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::new)?
        .block_on(work)
}

/// Adds a new version of the cache key to the keyring of `settings`.
///
/// # Errors
///
/// When the keyring cannot be read or written; it is as it was then.
pub fn add_cache_key(settings: &Settings) -> Result<String, StartError> {
    let path = &settings.keyring;
    let version = keyring_files::add_cache_key(path, &SystemEntropy).map_err(StartError::new)?;
    Ok(format!(
        "a new cache key: {}\ngive the file to all instances, and start them anew",
        path.join(format!("cache-{version}")).display()
    ))
}

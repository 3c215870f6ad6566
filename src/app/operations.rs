//! The operator's commands for a shared store: migrate the schema, create the secrets once, advance
//! the epoch, add a cache key. No instance needs to run.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use super::{StartError, bootstrap};
use crate::config::{Settings, Store};
use crate::system::{SystemClock, SystemEntropy};
use keyward_core::key::{Prefix, TOKEN_PREFIX};
use keyward_crypto::private_file::{self, PrivateFileError};
use keyward_crypto::{ImportSecret, KeyKind, keyring_files};
use keyward_ops::Tasks;
use keyward_store::{KeyringChecks as _, Store as _, Tokens as _};
use keyward_store_postgres::{Hosts, PostgresOwner, PostgresStore};

/// Migrates the schema and grants `service_role` the rights that serving requires. Idempotent.
///
/// # Errors
///
/// Why the migration failed, and what to do.
pub fn migrate(settings: &Settings, service_role: Option<&str>) -> Result<String, StartError> {
    run(async {
        owner(settings).await?.migrate(service_role).await?;
        Ok(schema_line(service_role))
    })
}

/// Prepares a new database: schema, keyring, and one token with every role. Writes the token to
/// `token_file`, by default `admin.token` in the data directory. Never overwrites a keyring or a
/// token. Creates only a token if no valid one has the role `admin`. Refuses a database that already has both,
/// or with `if_new` leaves one with tokens unchanged.
///
/// # Errors
///
/// Why the preparation failed, and what to do.
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
        owner.migrate(service_role).await?;
        owner.settle_first().await?;
        let schema = schema_line(service_role);
        if create_secrets(settings, &token, if_new).await? {
            let keyring = settings.keyring.display();
            let token = token.display();
            return Ok(format!(
                "{schema}\nkeyring: {keyring} (back it up: without it all keys are lost; copy it to \
                 every instance)\ntoken: {token} (all roles; for the first calls and for emergencies)"
            ));
        }
        if if_new {
            return Ok(format!(
                "{schema}\nthe keyring and the tokens already exist"
            ));
        }
        Err(StartError(
            "this database already has a keyring and tokens; its schema is up to date. No other \
             preparation is necessary"
                .to_owned(),
        ))
    })
}

/// Advances the epoch: the operator accepts the log in its current form after a loss of its tail.
///
/// # Errors
///
/// Why the epoch was not advanced, and what to do.
pub fn advance_epoch(settings: &Settings, reason: &str) -> Result<String, StartError> {
    run(async {
        let mut owner = owner(settings).await?;
        let incarnation = owner.advance_epoch(reason).await?;
        Ok(format!(
            "the epoch is now {incarnation}; instances that refused to serve start again within a \
             second. Revoke answers UNAVAILABLE for about a minute more, until the epoch is settled. \
             Then repeat the revocations that were lost with the tail of the log"
        ))
    })
}

fn schema_line(service_role: Option<&str>) -> String {
    match service_role {
        Some(role) => format!("schema: up to date; the role {role} has the rights to serve"),
        None => "schema: up to date".to_owned(),
    }
}

fn refuse_to_overwrite(token: &Path) -> Result<(), StartError> {
    match token.exists() {
        false => Ok(()),
        true => Err(StartError(format!(
            "{} already exists and is not overwritten. Name another file with --token-file, or move \
             this file away",
            token.display()
        ))),
    }
}

/// Creates the keyring and the token. `false` if the database already has them. Only a person replaces the
/// last admin token, not a start that runs this `if_new`.
async fn create_secrets(
    settings: &Settings,
    token: &Path,
    if_new: bool,
) -> Result<bool, StartError> {
    let (clock, entropy) = (Arc::new(SystemClock), SystemEntropy);
    let hosts = hosts(settings)?;
    let tasks = Tasks::default();
    let staleness = settings.max_staleness;
    let store = PostgresStore::open(&hosts, staleness, clock.clone(), &tasks).await?;
    let known = store.known_keys().await?;
    let exists = match if_new {
        true => store.has_tokens().await?,
        false => store.has_admin().await?,
    };
    if exists {
        store.close().await;
        return Ok(false);
    }
    refuse_to_overwrite(token)?;
    let keyring = keyring_files::load(&settings.keyring);
    if known.is_empty() && !matches!(keyring, Err(keyring_files::KeyringError::Missing { .. })) {
        return Err(StartError(format!(
            "the keyring {} belongs to another database and is not overwritten. Set `keyring` to \
             another directory, or move this keyring away",
            settings.keyring.display()
        )));
    }
    for path in [Some(settings.data_dir.as_path()), token.parent()] {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        path.map_or(Ok(()), bootstrap::directory)?;
    }
    // The keyring comes first, because the token belongs to one of its generations.
    let policy = bootstrap::SecretPolicy::Create;
    let keyring = bootstrap::keyring(settings, &store, &entropy, policy).await?;
    let prefix = Prefix::new(TOKEN_PREFIX)?;
    let first = bootstrap::FirstToken {
        file: token.to_path_buf(),
        prefix: &prefix,
        keyring: &keyring,
    };
    first.ensure(&store, &*clock, &entropy).await?;
    store.close().await;
    Ok(true)
}

pub(super) async fn owner(settings: &Settings) -> Result<PostgresOwner, StartError> {
    Ok(PostgresOwner::connect(&hosts(settings)?, Arc::new(SystemClock)).await?)
}

pub(super) fn hosts(settings: &Settings) -> Result<Hosts, StartError> {
    match &settings.store {
        Store::Postgres(urls) => Ok(super::store::hosts(urls, settings)),
        Store::Sqlite(_) => Err(StartError(
            "this command requires a Postgres store; the embedded store prepares itself when \
             keyward starts"
                .to_owned(),
        )),
    }
}

pub(super) fn run<T>(work: impl Future<Output = Result<T, StartError>>) -> Result<T, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Adds a key to the keyring of `settings`. An import secret is in `secret_file`; others are drawn.
///
/// # Errors
///
/// The keyring or the file cannot be read, or the keyring cannot be written. It is then unchanged.
pub fn add_to_keyring(
    settings: &Settings,
    kind: KeyKind,
    number: Option<u32>,
    secret_file: Option<&Path>,
) -> Result<String, StartError> {
    let directory = &settings.keyring;
    let added = match (kind, secret_file) {
        (KeyKind::Import, Some(path)) => {
            let secret = import_secret(path)?;
            keyring_files::add_import_secret(directory, number, &secret)
        }
        (_, Some(_)) => {
            return Err(StartError(
                "only an import secret comes from --secret-file; others are drawn".to_owned(),
            ));
        }
        (_, None) => keyring_files::add(directory, kind, number, &SystemEntropy),
    };
    let name = added?;
    let next = match kind {
        KeyKind::Generation | KeyKind::Seal | KeyKind::Audit => format!(
            "A running instance loads it within about a second. When all have it, run `keyward keyring \
             activate {} {}`",
            kind.name(),
            name.number
        ),
        KeyKind::Cache => "Restart the instances: each uses the newest cache key at its start".to_owned(),
        KeyKind::Foreign | KeyKind::Import => {
            "A running instance loads it within about a second, and it is in use when all have it. Back \
             it up: it is needed as long as the store exists"
                .to_owned()
        }
    };
    let path = directory.join(name.to_string());
    Ok(format!(
        "new file: {}\nCopy it to the keyring of every instance. {next}.",
        path.display()
    ))
}

/// The import secret in a file: its bytes, without one line end.
fn import_secret(path: &Path) -> Result<ImportSecret, StartError> {
    let failed = |why: &dyn std::fmt::Display| {
        StartError(format!(
            "cannot use the secret in {}: {why}. The file holds 1 to {} bytes that only you can read, and \
             at most one line end after them",
            path.display(),
            ImportSecret::MAX_LEN
        ))
    };
    let bytes =
        private_file::read(path, ImportSecret::MAX_LEN + 2).map_err(|error| match error {
            PrivateFileError::NoFile => failed(&"it is not a file"),
            PrivateFileError::Exposed => failed(&"every user of this machine can read it"),
            PrivateFileError::TooLong => failed(&"it is too long"),
            PrivateFileError::Read(cause) => failed(&cause),
        })?;
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    ImportSecret::new(secret).ok_or_else(|| failed(&"it is empty or too long"))
}

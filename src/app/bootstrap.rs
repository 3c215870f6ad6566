//! Prepares a start: a private data directory, the keyring that belongs to the store and, at the
//! first start, a new keyring and a token.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::StartError;
use super::keyring::{Misfit, fitting, unknown};
use crate::auth::from_file;
use crate::config::Settings;
use keyward_core::key::{Clock, Entropy, KeyId, Prefix, Roles, SecretText, SlotName, TextForm};
use keyward_crypto::{
    Active, CheckValue, KeyKind, KeyName, Keyring, KeyringError, KeyringMaterial, keyring_files,
};
use keyward_store::keyring::active;
use keyward_store::{Actor, Expiry, KnownKey, NewToken, Store};

/// Creates the data directory if it is missing. Only its owner can read it.
pub(super) fn directory(path: &Path) -> Result<(), StartError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| cannot_create(path, &error))
}

pub(super) fn cannot_create(path: &Path, error: &std::io::Error) -> StartError {
    StartError(format!(
        "cannot create the data directory {}: {error}. Check the permissions, or set `data_dir` to \
         another directory",
        path.display()
    ))
}

/// Whether the store has never contained a key or a token. Only then may a start create secrets.
pub(super) async fn is_untouched(store: &dyn Store) -> Result<bool, StartError> {
    let tokens = store.has_tokens().await?;
    // The log still has the row of a token that was deleted manually.
    let log = store.tail(0).await?;
    Ok(!tokens && log.head == 0)
}

/// The default file of the first token.
pub(super) fn token_file(settings: &Settings) -> PathBuf {
    settings.data_dir.join("admin.token")
}

/// Whether a start may create secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretPolicy {
    /// Create a keyring, but only for an untouched store, never for a store with keys.
    Create,
    /// Create nothing: the store is shared, and `keyward init` creates its secrets once.
    Load,
}

/// What a start finds of the keyring.
pub(super) struct Found {
    /// The keys that the store knows.
    known: Vec<KnownKey>,
    /// Whether the store has never contained a key or a token.
    is_untouched: bool,
    /// The keyring; `None` if there is none yet, and the start creates it.
    pub(super) keyring: Option<Keyring>,
}

/// Finds the keyring and checks that it belongs to the store. Changes nothing.
pub(super) async fn find_keyring(
    settings: &Settings,
    store: &dyn Store,
    policy: SecretPolicy,
) -> Result<Found, StartError> {
    let known = store.known_keys().await?;
    if policy == SecretPolicy::Load && known.is_empty() {
        return Err(StartError(
            "this database has no keyring yet: run `keyward init` once, with the owner's URL in \
             `store`"
                .to_owned(),
        ));
    }
    let is_untouched = known.is_empty() && is_untouched(store).await?;
    if is_untouched && token_file(settings).exists() {
        // The token is written after the check values, so this file belongs to another database.
        return Err(StartError(format!(
            "the database is new, but {} exists and belongs to another database. Restore that \
             database, or move the file and the keyring away to start with a new one",
            token_file(settings).display()
        )));
    }
    let material = match keyring_files::load(&settings.keyring) {
        Err(KeyringError::Missing { .. }) if is_untouched => None,
        loaded => Some(loaded?),
    };
    if !is_untouched && known.is_empty() {
        return Err(StartError(
            "this store has tokens or keys, but no check values of its keyring: it was changed \
             manually. Restore it from a backup"
                .to_owned(),
        ));
    }
    let keyring = material.map(|material| belonging(&material, &known, &settings.keyring));
    Ok(Found {
        keyring: keyring.transpose()?,
        known,
        is_untouched,
    })
}

/// The keyring of these files, if it belongs to the store that knows `known`.
fn belonging(
    material: &KeyringMaterial,
    known: &[KnownKey],
    path: &Path,
) -> Result<Keyring, StartError> {
    let files = Keyring::new(material, Active::default())?;
    fitting(&files, &files, known).map_err(|misfit| match misfit {
        Misfit::Differs(name) => foreign(name, path),
        Misfit::Missing(name) => absent(name, path),
        Misfit::Incomplete(error) => error.into(),
    })
}

/// Loads the keyring and checks that it belongs to the store. Creates a new one if `policy` allows it.
pub(super) async fn keyring(
    settings: &Settings,
    store: &dyn Store,
    entropy: &dyn Entropy,
    policy: SecretPolicy,
) -> Result<Keyring, StartError> {
    let path = &settings.keyring;
    let Found {
        known,
        is_untouched,
        keyring,
    } = find_keyring(settings, store, policy).await?;
    let keyring = match keyring {
        Some(keyring) => keyring,
        None => {
            tracing::info!(keyring = %path.display(), "created a new keyring; back it up: without it all keys are lost");
            let material = keyring_files::generate(path, entropy)?;
            belonging(&material, &known, path)?
        }
    };
    let new = unknown(&keyring, &known);
    match is_untouched {
        true => add(store, &new).await?,
        // Another key of the same name is noticed later in the start.
        false => store.note_loaded(&new).await?,
    }
    let active = active(&known);
    let audit_key = keyring.audit_key().map(|key| key.version());
    for (kind, active, highest) in [
        (
            KeyKind::Generation,
            active.generation,
            Some(keyring.active()),
        ),
        (KeyKind::Seal, active.seal, Some(keyring.active_seal())),
        (KeyKind::Audit, active.audit, audit_key),
    ] {
        if let (None, Some(number)) = (active, highest) {
            let name = KeyName { kind, number };
            store.activate(name, &Actor::service()).await?;
        }
    }
    Ok(keyring)
}

/// Refuses formats of foreign keys with a keyring that gives such keys no digest.
pub(super) fn check_foreign(settings: &Settings, keyring: &Keyring) -> Result<(), StartError> {
    if settings.foreign_formats.is_empty() || keyring.has_foreign_pepper() {
        return Ok(());
    }
    Err(StartError(format!(
        "`foreign_formats` requires a foreign pepper, and the keyring {} was made without one. Run \
         `keyward keyring add foreign` once, copy the file foreign-1 to all instances, and restart them",
        settings.keyring.display()
    )))
}

/// Adds check values. Another instance may have added the same ones in the meantime.
async fn add(store: &dyn Store, new: &[CheckValue]) -> Result<(), StartError> {
    let Err(error) = store.add_check_values(new).await else {
        return Ok(());
    };
    let known = store.known_keys().await?;
    let is_known = |value: &CheckValue| known.iter().any(|key| key.check == *value);
    if new.iter().all(is_known) {
        return Ok(());
    }
    Err(error.into())
}

fn foreign(name: KeyName, path: &Path) -> StartError {
    StartError(format!(
        "{} {} of the keyring {} does not belong to this store, so no key would be recognised. \
         Nothing was changed. Restore the keyring that belongs to the store",
        name.kind.name(),
        name.number,
        path.display()
    ))
}

fn absent(name: KeyName, path: &Path) -> StartError {
    StartError(format!(
        "{} {} is missing from the keyring {}, and this store requires it. Nothing was changed. \
         Restore the file from a backup",
        name.kind.name(),
        name.number,
        path.display()
    ))
}

/// The token with every role that the first start creates.
pub(super) struct FirstToken<'a> {
    pub(super) file: PathBuf,
    pub(super) prefix: &'a Prefix,
    pub(super) keyring: &'a Keyring,
}

impl FirstToken<'_> {
    /// Creates the token if no valid token with the role `admin` exists: at the first start, or after
    /// the last one was revoked. An old file is neither overwritten nor used; the service starts
    /// without an admin token then. The file is written before the row, so that the next start can
    /// complete an interrupted one with the token in the file.
    pub(super) async fn ensure(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(), StartError> {
        if store.has_admin().await? {
            return Ok(());
        }
        let text = match self.read()? {
            None => self.write(entropy)?,
            Some(text) if is_untouched(store).await? => text,
            Some(_) => {
                tracing::error!(
                    "no valid token has the role admin, and {} contains an old token. Move the file \
                     away and restart: the start creates a new token",
                    self.file.display()
                );
                return Ok(());
            }
        };
        let found = TextForm::read(text.expose(), std::slice::from_ref(self.prefix)).ok();
        let (digest, generation) = found
            .and_then(|(prefix, body)| self.keyring.digest_of(prefix, &body, text.expose()))
            .ok_or_else(|| {
                StartError(format!(
                    "{} contains no token of this keyring. Move the file away: the next start \
                     creates a new token",
                    self.file.display()
                ))
            })?;
        let new = NewToken {
            id: KeyId::draw(clock.wall(), entropy),
            digest,
            generation: Some(generation),
            san: None,
            name: SlotName::new("name", "admin".to_owned())?,
            roles: Roles::all(),
            expiry: Expiry::Never,
        };
        store.create_token(new, &Actor::service()).await?;
        tracing::info!(file = %self.file.display(), "created a token with every role");
        Ok(())
    }

    /// The token in the file, if there is one.
    fn read(&self) -> Result<Option<SecretText>, StartError> {
        match std::fs::read(&self.file).map(Zeroizing::new) {
            Ok(bytes) => Ok(Some(from_file(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    /// Writes a new token atomically to a file that only its owner can read.
    fn write(&self, entropy: &dyn Entropy) -> Result<SecretText, StartError> {
        let text = self.keyring.mint(self.prefix, entropy).text;
        let half = self.file.with_extension("token.new");
        let write = || {
            let mut file = File::options()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&half)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            writeln!(file, "{}", text.expose())?;
            file.sync_all()?;
            std::fs::rename(&half, &self.file)?;
            let directory = self.file.parent().unwrap_or(Path::new("."));
            // A name without a directory lies in this one.
            let is_named = !directory.as_os_str().is_empty();
            File::open(if is_named { directory } else { Path::new(".") })?.sync_all()
        };
        write().map_err(|error| self.failed("write", &error))?;
        Ok(text)
    }

    fn failed(&self, action: &str, error: &std::io::Error) -> StartError {
        StartError(format!(
            "cannot {action} the token file {}: {error}. Check the path and its permissions",
            self.file.display()
        ))
    }
}

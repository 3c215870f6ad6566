//! What a start makes sure of before it serves: a private data directory, the keyring that the
//! store was made with, and at the very first start a keyring and a token.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::StartError;
use crate::auth::from_file;
use crate::config::Settings;
use keyward_core::key::{Clock, Entropy, KeyId, Prefix, Roles, SecretText, SlotName, TextForm};
use keyward_crypto::{CheckValue, KeyKind, Keyring, KeyringError, keyring_files};
use keyward_store::{Actor, NewToken, Store};

/// Makes the data directory, readable by its owner only, if there is none.
pub(super) fn directory(path: &Path) -> Result<(), StartError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            StartError(format!(
                "the data directory {} cannot be made: {error}; name another one with data_dir",
                path.display()
            ))
        })
}

/// Whether nothing was ever issued from this store, and no token either: then, and only then, a
/// start may make secrets of its own.
pub(super) async fn is_untouched(store: &dyn Store) -> Result<bool, StartError> {
    let tokens = store.has_tokens().await.map_err(StartError::new)?;
    // A token that was deleted by hand has left its row in the log.
    let log = store.tail(0).await.map_err(StartError::new)?;
    Ok(!tokens && log.head == 0)
}

/// Where the first token is written.
pub(super) fn token_file(settings: &Settings) -> PathBuf {
    settings.data_dir.join("admin.token")
}

/// Whether a start may make secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// A keyring, beside an untouched store: so never does a new one appear beside existing keys.
    Make,
    /// Nothing: the store is shared, and `keyward init` makes its secrets once.
    Load,
}

/// Loads the keyring, and refuses one that is not the store's; makes a new one where it may.
pub(super) async fn keyring(
    settings: &Settings,
    store: &dyn Store,
    entropy: &dyn Entropy,
    may: May,
) -> Result<Keyring, StartError> {
    let known = store.check_values().await.map_err(StartError::new)?;
    let active = store.active_generation().await.map_err(StartError::new)?;
    let path = &settings.keyring;
    if may == May::Load && known.is_empty() {
        return Err(StartError(
            "this database has no keyring yet: run `keyward init` once, with the owner's URL in \
             `store`"
                .to_owned(),
        ));
    }
    let untouched = known.is_empty() && is_untouched(store).await?;
    if untouched && token_file(settings).exists() {
        // The token is written after the check values: this one belongs to another database.
        return Err(StartError(format!(
            "the database is a new one, but {} is there: was the database it belongs to moved or \
             lost? Put that back; or, to begin anew, move the file and the keyring away",
            token_file(settings).display()
        )));
    }
    let material = match keyring_files::load(path) {
        Err(KeyringError::Missing { .. }) if untouched => {
            tracing::info!(keyring = %path.display(), "a new keyring: back it up, keys die without it");
            keyring_files::generate(path, entropy)
        }
        loaded => loaded,
    }
    .map_err(StartError::new)?;
    let keyring = Keyring::new(&material, active).map_err(StartError::new)?;
    let ours = keyring.check_values();
    for check in &known {
        match ours
            .iter()
            .find(|value| (value.kind, value.number) == (check.kind, check.number))
        {
            Some(value) if value.value == check.value => {}
            Some(_) => return Err(foreign(check, path)),
            None => return Err(absent(check, path)),
        }
    }
    if !untouched && known.is_empty() {
        return Err(StartError(
            "this store has tokens or keys but no check values of its keyring: it was changed by \
             hand; restore it from a backup"
                .to_owned(),
        ));
    }
    // A sealing key writes as soon as it is there; a generation only once it was activated.
    let new: Vec<_> = ours
        .into_iter()
        .filter(|value| !known.contains(value))
        .filter(|value| untouched || value.kind == KeyKind::Seal)
        .collect();
    if !new.is_empty() {
        add(store, &new).await?;
    }
    if active.is_none() {
        let first = keyring.active();
        store
            .activate_generation(first)
            .await
            .map_err(StartError::new)?;
    }
    Ok(keyring)
}

/// Adds check values; another instance may have added the same ones meanwhile.
async fn add(store: &dyn Store, new: &[CheckValue]) -> Result<(), StartError> {
    let Err(error) = store.add_check_values(new).await else {
        return Ok(());
    };
    let known = store.check_values().await.map_err(StartError::new)?;
    if new.iter().all(|value| known.contains(value)) {
        return Ok(());
    }
    Err(StartError::new(error))
}

fn foreign(check: &CheckValue, path: &Path) -> StartError {
    StartError(format!(
        "{} {} of the keyring {} is not the one that this store was made with; no key would be \
         recognised. Put back the keyring that belongs to the store (nothing was changed)",
        check.kind.name(),
        check.number,
        path.display()
    ))
}

fn absent(check: &CheckValue, path: &Path) -> StartError {
    StartError(format!(
        "{} {} is missing from the keyring {}, and this store needs it; put it back from a backup \
         (nothing was changed)",
        check.kind.name(),
        check.number,
        path.display()
    ))
}

/// The token that a first start makes, with every role.
pub(super) struct FirstToken<'a> {
    pub(super) file: PathBuf,
    pub(super) prefix: &'a Prefix,
    pub(super) keyring: &'a Keyring,
}

impl FirstToken<'_> {
    /// Makes it if no token lives that could make others: at the first start, or after the last
    /// such token was revoked; but an old file is neither overwritten nor believed, and verifying
    /// goes on. The file comes before the row: a start that is cut off in between
    /// is finished by the next one, with the token that the file holds.
    pub(super) async fn ensure(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(), StartError> {
        if store.has_admin().await.map_err(StartError::new)? {
            return Ok(());
        }
        let text = match self.read()? {
            None => self.write(entropy)?,
            Some(text) if is_untouched(store).await? => text,
            Some(_) => {
                tracing::error!(
                    "no token with the role admin lives any more, and {} holds an old one: move \
                     the file away, and the next start makes a new one",
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
                    "{} holds no token of this keyring; move the file away, and the next start \
                     makes a new one",
                    self.file.display()
                ))
            })?;
        let new = NewToken {
            id: KeyId::draw(clock.wall(), entropy),
            digest,
            generation,
            name: SlotName::new("name", "admin".to_owned()).map_err(StartError::new)?,
            roles: Roles::all(),
        };
        let itself = Actor {
            token: None,
            name: "keyward".to_owned(),
        };
        store
            .create_token(new, &itself)
            .await
            .map_err(StartError::new)?;
        tracing::info!(file = %self.file.display(), "a new token with every role");
        Ok(())
    }

    /// The token in the file, if there is one.
    fn read(&self) -> Result<Option<SecretText>, StartError> {
        match std::fs::read(&self.file).map(Zeroizing::new) {
            Ok(bytes) => Ok(Some(from_file(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.cannot("read", &error)),
        }
    }

    /// Writes a new token to a file of its own mode, whole or not at all.
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
            match self.file.parent() {
                Some(directory) => File::open(directory)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|error| self.cannot("written", &error))?;
        Ok(text)
    }

    fn cannot(&self, what: &str, error: &std::io::Error) -> StartError {
        StartError(format!(
            "the token file {} cannot be {what}: {error}",
            self.file.display()
        ))
    }
}

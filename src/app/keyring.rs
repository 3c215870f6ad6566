//! Keeps the keyring of a running instance up to date: it loads new files, follows activations and
//! retirements, and reports what it has loaded.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::components::Base;
use crate::replication::Tail;
use keyward_core::fence::RegistrationId;
use keyward_crypto::{
    Active, CheckValue, CurrentKeyring, KeyKind, KeyName, Keyring, NoKeyring, keyring_files,
};
use keyward_store::keyring::{active, state_of};
use keyward_store::{Activation, Actor, Cluster, KnownKey, KnownState, Store};

/// How often an instance looks at the directory of the keyring, and at the store's keys.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why an instance cannot use a keyring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    /// A key has other secrets than the store's key of the same name.
    #[error("{0} has other secrets than the store's key of this name")]
    Differs(KeyName),
    /// The store requires a key that the keyring lacks.
    #[error("{0} is missing")]
    Missing(KeyName),
    /// The keyring lacks a kind.
    #[error(transparent)]
    Incomplete(#[from] NoKeyring),
}

/// The keyring of an instance whose files hold `files`, and whose memory holds `older`. It drops retired
/// keys, and keys without a file that the store does not know.
pub(super) fn fitting(
    older: &Keyring,
    files: &Keyring,
    known: &[KnownKey],
) -> Result<Keyring, Misfit> {
    let with_file: HashSet<_> = files.names().into_iter().collect();
    let values: Vec<_> = [files, older].map(Keyring::check_values).concat();
    for key in known {
        let name = key.check.name();
        let ours = values.iter().find(|value| value.name() == name);
        match ours {
            _ if key.state == KnownState::Retired => {}
            Some(value) if *value != key.check => return Err(Misfit::Differs(name)),
            None if key.state.is_required() => return Err(Misfit::Missing(name)),
            _ => {}
        }
    }
    let is_kept = |name| match state_of(known, name) {
        Some(state) => state != KnownState::Retired,
        None => with_file.contains(&name),
    };
    let required = known.iter().filter(|key| key.state.is_required());
    let in_force = required.map(|key| key.check.name()).collect();
    Ok(older.merged(files, active(known), is_kept, in_force)?)
}

/// The keys of `keyring` that the store does not know.
pub(super) fn unknown(keyring: &Keyring, known: &[KnownKey]) -> Vec<CheckValue> {
    let mut values = keyring.check_values();
    values.retain(|value| state_of(known, value.name()).is_none());
    values
}

type Versions = Vec<(PathBuf, u64, SystemTime)>;

/// Keeps the keyring of one instance up to date.
pub(super) struct KeyringWatch {
    directory: PathBuf,
    store: Arc<dyn Store>,
    cluster: Option<Arc<dyn Cluster>>,
    tail: Arc<Tail>,
    current: Arc<CurrentKeyring>,
    seen: Option<Seen>,
    reported: Option<(RegistrationId, Vec<KeyName>)>,
}

/// What the latest look has found.
#[derive(PartialEq, Eq)]
struct Seen {
    versions: Option<Versions>,
    known: Vec<KnownKey>,
}

impl KeyringWatch {
    /// Keeps `current` up to date with the files in `directory` and the store, for the instance with this
    /// tail.
    pub(super) fn new(
        base: &Base,
        directory: PathBuf,
        tail: &Arc<Tail>,
        current: &Arc<CurrentKeyring>,
    ) -> Self {
        Self {
            directory,
            store: Arc::clone(&base.store),
            cluster: base.cluster.clone(),
            tail: Arc::clone(tail),
            current: Arc::clone(current),
            seen: None,
            reported: None,
        }
    }

    /// Looks once a second until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while let Some(()) = stop.run_until_cancelled(sleep(INTERVAL)).await {
            if let Err(misfit) = self.look().await {
                tracing::error!(
                    "the keyring {} was not loaded again: {misfit}. Copy the right file from \
                     another instance, or remove a file that does not belong here",
                    self.directory.display()
                );
            }
        }
    }

    /// Looks at the directory and at the store, and follows what has changed. An error is returned once.
    pub(super) async fn look(&mut self) -> Result<(), Misfit> {
        // What has come into force is usable at once.
        while self.look_once().await? {}
        Ok(())
    }

    /// Returns whether a key has come into force.
    async fn look_once(&mut self) -> Result<bool, Misfit> {
        let directory = self.directory.clone();
        let versions = blocking(move || keyring_files::versions(&directory)).await;
        // A store call that fails is logged where it is measured.
        let Ok(known) = self.store.known_keys().await else {
            return Ok(false);
        };
        let seen = Seen {
            versions: versions.ok(),
            known,
        };
        let outcome = match self.seen.as_ref() == Some(&seen) {
            true => Ok(true),
            false => self.follow(&seen).await,
        };
        self.report().await;
        let has_come = self.put_in_force(&seen.known).await;
        let is_done = !matches!(outcome, Ok(false));
        self.seen = Some(seen).filter(|_| is_done);
        outcome.map(|_| has_come)
    }

    /// Returns whether it is done; otherwise the store failed.
    async fn follow(&self, seen: &Seen) -> Result<bool, Misfit> {
        let before = self.current.load_full();
        let files = self.files().await;
        let files = files.as_ref().unwrap_or(&before);
        let mut fitted = fitting(&before, files, &seen.known);
        if let Err(misfit) = &fitted {
            // The keys in memory still follow an activation.
            let misfit = misfit.clone();
            if let Ok(kept) = fitting(&before, &before, &seen.known) {
                self.current.replace(kept);
            }
            return Err(misfit);
        }
        let new = fitted.as_ref().map(|keyring| unknown(keyring, &seen.known));
        let new = new.unwrap_or_default();
        if !new.is_empty() {
            let noted = self.store.note_loaded(&new).await;
            // Another instance may have noted another key of the same name.
            let (Ok(()), Ok(known)) = (noted, self.store.known_keys().await) else {
                return Ok(false);
            };
            fitted = fitting(&before, files, &known);
        }
        let fitted = fitted?;
        let with_file: HashSet<_> = files.names().into_iter().collect();
        for key in seen.known.iter().filter(|key| key.state.is_required()) {
            let name = key.check.name();
            if !with_file.contains(&name) {
                tracing::error!(
                    "{name} is required, and its file is gone from {}: it is in memory alone. Put the file back \
                     before a restart",
                    self.directory.display()
                );
            }
        }
        if fitted.names() != before.names() {
            tracing::info!(keys = ?fitted, "loaded the keyring again");
        }
        self.current.replace(fitted);
        Ok(true)
    }

    /// The keyring in the files; `None` if they cannot be read.
    async fn files(&self) -> Option<Keyring> {
        let directory = self.directory.clone();
        let read = move || {
            let material = keyring_files::load(&directory).map_err(io::Error::other)?;
            Keyring::new(&material, Active::default()).map_err(io::Error::other)
        };
        match blocking(read).await {
            Ok(keyring) => Some(keyring),
            Err(error) => {
                tracing::error!(
                    "the keyring was not loaded again, and nothing was changed: {error}"
                );
                None
            }
        }
    }

    /// Makes the foreign pepper and the import secrets required as soon as every instance has them.
    /// Returns whether there was one.
    async fn put_in_force(&self, known: &[KnownKey]) -> bool {
        let mut has_come = false;
        for key in known {
            let name = key.check.name();
            let is_needless = key.state != KnownState::Loaded
                || !matches!(name.kind, KeyKind::Foreign | KeyKind::Import)
                || !self.current.load().names().contains(&name);
            if is_needless {
                continue;
            }
            if let Ok(Activation::Done) = self.store.activate(name, &Actor::service()).await {
                tracing::info!("{name} is in use: every instance has loaded it");
                has_come = true;
            }
        }
        has_come
    }

    /// Writes to this instance's row what it has loaded, unless the row says so.
    async fn report(&mut self) {
        let Some((cluster, registration)) = self.cluster.as_ref().zip(self.tail.registration())
        else {
            return;
        };
        let state = (registration, self.current.load().names());
        if self.reported.as_ref() == Some(&state) {
            return;
        }
        if cluster.report_keyring(registration, &state.1).await.is_ok() {
            self.reported = Some(state);
        }
    }
}

/// Reads files beside the tasks of the runtime.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

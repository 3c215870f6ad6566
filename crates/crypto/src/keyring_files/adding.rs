//! Adds files to a keyring. A file appears complete or not at all, never over another one, and those read it who
//! read the others.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use super::{KeyringError, files_in, lines, load, write_secret};
use crate::material::{GenerationKeys, ImportSecret, KeyKind, KeyName, KeyringMaterial};
use keyward_core::key::Entropy;

/// Adds a new key to the keyring in `dir`: the next one of its kind, or the one with `number`. Never
/// replaces a file. An import secret is not drawn: see [`add_import_secret`].
pub fn add(
    dir: &Path,
    kind: KeyKind,
    number: Option<u32>,
    entropy: &dyn Entropy,
) -> Result<KeyName, KeyringError> {
    let material = load(dir)?;
    if kind == KeyKind::Foreign && material.foreign.is_some() {
        return Err(KeyringError::Known(dir.to_owned()));
    }
    let generation = GenerationKeys::draw(entropy);
    let name = next(dir, &material, kind, number)?;
    match kind {
        KeyKind::Generation => publish(dir, name, &lines(&generation)),
        _ => publish(dir, name, &[("key", generation.pepper.expose())]),
    }
}

/// Adds an import secret to the keyring in `dir`, with the next number or with `number`.
pub fn add_import_secret(
    dir: &Path,
    number: Option<u32>,
    secret: &ImportSecret,
) -> Result<KeyName, KeyringError> {
    let material = load(dir)?;
    if material.holds(secret.expose()) {
        return Err(KeyringError::Known(dir.to_owned()));
    }
    let name = next(dir, &material, KeyKind::Import, number)?;
    publish(dir, name, &[("key", secret.expose())])
}

fn next(
    dir: &Path,
    material: &KeyringMaterial,
    kind: KeyKind,
    number: Option<u32>,
) -> Result<KeyName, KeyringError> {
    let next = number.or_else(|| material.highest(kind).checked_add(1));
    let number = next.ok_or_else(|| KeyringError::Write {
        path: dir.to_owned(),
        cause: io::ErrorKind::QuotaExceeded.into(),
    })?;
    Ok(KeyName { kind, number })
}

/// Writes a file, complete or not at all, and never over another.
fn publish(dir: &Path, name: KeyName, keys: &[(&str, &[u8])]) -> Result<KeyName, KeyringError> {
    let failed = |cause| KeyringError::Write {
        path: dir.to_owned(),
        cause,
    };
    // First under a hidden name, which `load` ignores.
    let hidden = dir.join(format!(".{name}"));
    let _ = fs::remove_file(&hidden);
    let added = write_secret(&hidden, name, keys)
        .and_then(|()| share(&hidden, dir))
        .and_then(|()| fs::hard_link(&hidden, dir.join(name.to_string())));
    // A hidden file that cannot be removed is as private as the keyring.
    let _ = fs::remove_file(&hidden);
    added
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(failed)?;
    Ok(name)
}

/// Lets those read a new file who can read the others of its keyring: root may add it for the service.
fn share(new: &Path, dir: &Path) -> io::Result<()> {
    let others = files_in(dir).map_err(io::Error::other)?;
    let Some(other) = others.first() else {
        return Ok(());
    };
    let (other, own) = (fs::metadata(other)?, fs::metadata(new)?);
    if (other.uid(), other.gid()) != (own.uid(), own.gid()) {
        chown(new, Some(other.uid()), Some(other.gid()))?;
    }
    fs::set_permissions(new, Permissions::from_mode(0o600 | (other.mode() & 0o040)))
}

//! The keyring as a directory of small text files, like a mounted secret: `generation-<n>`,
//! `seal-<n>` and `cache-<n>`. `load` refuses every file that differs from the form that `generate`
//! writes. No error contains any of a file's contents.
//!
//! ```text
//! keyward keyring v1          the same in every file
//! generation = 1              or `seal = 1` or `cache = 1`, as in the file's name
//! tag_key = <64 hex digits>   a seal or cache file has one line instead: `key = ...`
//! pepper = <64 hex digits>
//! crc32 = <8 hex digits>      CRC-32 of all bytes before this line
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::material::{GenerationKeys, KeyKind, KeyringMaterial, SecretKey};
use super::private_file::{self, PrivateFileError};
use keyward_core::key::Entropy;

const HEADER: &str = "keyward keyring v1\n";
/// The limit of a file's size, in bytes. All files of a keyring are much smaller.
const MAX_FILE: usize = 4_096;

/// Why a keyring could not be loaded or written. Each text says what failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The directory does not exist or is empty.
    #[error(
        "there is no keyring in {0:?}: restore it from its backup, or every key of this store is lost"
    )]
    Missing(PathBuf),
    /// The directory holds no generation.
    #[error("the keyring {0:?} holds no file generation-<number>: restore it from its backup")]
    NoGeneration(PathBuf),
    /// The directory holds no sealing key.
    #[error("the keyring {0:?} holds no file seal-<number>: restore it from its backup")]
    NoSeal(PathBuf),
    /// The directory holds a file that does not belong to a keyring.
    #[error(
        "{0:?} does not belong in a keyring, which holds only generation-<number>, seal-<number> and cache-<number>: move it elsewhere, or restore its name if it was renamed"
    )]
    Unknown(PathBuf),
    /// The number in a file's name is not in canonical form.
    #[error(
        "the number in the name of {0:?} is not from 1 to 4294967295 without leading zeros: restore the file's old name"
    )]
    Number(PathBuf),
    /// Every user of the machine can read or change the file.
    #[error(
        "{0:?} can be read or changed by every user of this machine: run `chmod o-rwx {0:?}`, or in Kubernetes set the volume's defaultMode to 0440"
    )]
    Exposed(PathBuf),
    /// A file has wrong contents.
    #[error("{path:?} is damaged ({reason}): restore it from the keyring's backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two parts of the keyring hold the same secret.
    #[error("{0:?} repeats a secret of this keyring: restore it from the keyring's backup")]
    Duplicate(PathBuf),
    /// The directory for a new keyring exists and is not empty.
    #[error(
        "{0:?} exists and is not empty, and a keyring is never overwritten: keep it, or name another directory"
    )]
    Exists(PathBuf),
    /// A file or the directory could not be read.
    #[error("cannot read {path:?} ({cause}): check the path, and that this user may read it")]
    Read {
        /// The file or the directory.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The keyring could not be written.
    #[error(
        "cannot make a keyring at {path:?} ({cause}): check that the directory above it exists, has free space and is writable by this user, and that nothing is mounted there"
    )]
    Write {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// Reads the keyring in `dir`. It ignores names that start with a dot and follows links, as a
/// mounted Kubernetes secret requires.
pub fn load(dir: &Path) -> Result<KeyringMaterial, KeyringError> {
    let mut material = KeyringMaterial::default();
    let files = files_in(dir)?;
    if files.is_empty() {
        return Err(KeyringError::Missing(dir.to_owned()));
    }
    for path in files {
        let (kind, number) = kind_of(&path)?;
        let text = read_text(&path)?;
        let damaged = |reason| KeyringError::Damaged {
            path: path.clone(),
            reason,
        };
        let mut lines = checked_lines(kind, number, &text).map_err(damaged)?;
        let mut take = |name| {
            let key = key_line(lines.next(), name).map_err(damaged)?;
            if material.holds(&key) {
                Err(KeyringError::Duplicate(path.clone()))
            } else {
                Ok(key)
            }
        };
        match kind {
            KeyKind::Generation => {
                let keys = GenerationKeys {
                    tag_key: take("tag_key")?,
                    pepper: take("pepper")?,
                };
                if keys.tag_key == keys.pepper {
                    return Err(KeyringError::Duplicate(path));
                }
                material.generations.insert(number, keys);
            }
            KeyKind::Seal => {
                let key = take("key")?;
                material.seals.insert(number, key);
            }
            KeyKind::Cache => {
                let key = take("key")?;
                material.caches.insert(number, key);
            }
        }
        if lines.next().is_some() {
            return Err(damaged("it has an extra line"));
        }
    }
    if material.generations.is_empty() {
        return Err(KeyringError::NoGeneration(dir.to_owned()));
    }
    if material.seals.is_empty() {
        return Err(KeyringError::NoSeal(dir.to_owned()));
    }
    Ok(material)
}

/// Makes a new keyring in `dir` with generation 1, seal 1 and cache 1, and reads it back. The
/// directory (mode 0700, files 0600) appears complete or not at all. A directory that is not empty
/// is refused. A crash can leave an unused directory `.<name>.<16 hex digits>` beside it.
pub fn generate(dir: &Path, entropy: &dyn Entropy) -> Result<KeyringMaterial, KeyringError> {
    let failed = |cause| KeyringError::Write {
        path: dir.to_owned(),
        cause,
    };
    match fs::read_dir(dir).map(|mut entries| entries.next()) {
        Ok(None) => {}
        Ok(Some(_)) => return Err(KeyringError::Exists(dir.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let (parent, temporary) = temporary_beside(dir, entropy).map_err(failed)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&temporary)
        .map_err(failed)?;
    let made = write_files(&temporary, entropy)
        .and_then(|()| fs::rename(&temporary, dir))
        .and_then(|()| File::open(&parent)?.sync_all());
    if let Err(error) = made {
        // The first error is the one to report. A leftover directory does no harm.
        let _ = fs::remove_dir_all(&temporary);
        return Err(match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => KeyringError::Exists(dir.to_owned()),
            _ => failed(error),
        });
    }
    load(dir)
}

/// Adds the next version of the cache key to the keyring in `dir`, complete or not at all. Returns
/// its number.
pub fn add_cache_key(dir: &Path, entropy: &dyn Entropy) -> Result<u32, KeyringError> {
    let material = load(dir)?;
    let failed = |cause| KeyringError::Write {
        path: dir.to_owned(),
        cause,
    };
    let highest = material.caches.last_key_value().map_or(0, |last| *last.0);
    let number = highest
        .checked_add(1)
        .ok_or_else(|| failed(io::ErrorKind::QuotaExceeded.into()))?;
    let key = SecretKey::draw(entropy);
    // First under a hidden name, which `load` ignores.
    let name = format!("{}-{number}", KeyKind::Cache.name());
    let hidden = dir.join(format!(".{name}"));
    let _ = fs::remove_file(&hidden);
    let added = write_secret(&hidden, KeyKind::Cache, number, &[("key", &key)])
        .and_then(|()| fs::hard_link(&hidden, dir.join(&name)));
    // A hidden file that cannot be removed is as private as the keyring.
    let _ = fs::remove_file(&hidden);
    added
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(failed)?;
    Ok(number)
}

/// The files of a keyring, sorted, so that the same fault always gives the same error.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, KeyringError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing(dir.to_owned()),
        _ => KeyringError::Read {
            path: dir.to_owned(),
            cause,
        },
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn kind_of(path: &Path) -> Result<(KeyKind, u32), KeyringError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let (kind, digits) = name
        .split_once('-')
        .and_then(|(stem, digits)| {
            Some((
                KeyKind::ALL.into_iter().find(|kind| kind.name() == stem)?,
                digits,
            ))
        })
        .ok_or_else(|| KeyringError::Unknown(path.to_owned()))?;
    let number = digits
        .parse()
        .ok()
        .filter(|number: &u32| *number > 0 && number.to_string() == digits);
    Ok((
        kind,
        number.ok_or_else(|| KeyringError::Number(path.to_owned()))?,
    ))
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, KeyringError> {
    let damaged = |reason| KeyringError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let bytes = private_file::read(path, MAX_FILE).map_err(|error| match error {
        PrivateFileError::NoFile => KeyringError::Unknown(path.to_owned()),
        PrivateFileError::Exposed => KeyringError::Exposed(path.to_owned()),
        PrivateFileError::TooLong => damaged("it is too long"),
        PrivateFileError::Read(cause) => KeyringError::Read {
            path: path.to_owned(),
            cause,
        },
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The lines with the keys, after a check of header, name and CRC.
fn checked_lines(
    kind: KeyKind,
    number: u32,
    text: &str,
) -> Result<std::str::SplitTerminator<'_, char>, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if !text.starts_with(HEADER) {
        return Err("its first line is not `keyward keyring v1`");
    }
    let (covered, crc) = text
        .rsplit_once("crc32 = ")
        .ok_or("it is cut short: its last line is missing")?;
    // An editor or a secret manager may have removed the last newline.
    let crc = crc.strip_suffix('\n').unwrap_or(crc);
    if crc != crc_of(covered) {
        return Err("its checksum is wrong");
    }
    let head = format!("{HEADER}{} = {number}\n", kind.name());
    let keys = covered
        .strip_prefix(head.as_str())
        .ok_or("its second line does not match its name")?;
    // `lines` would also accept lines that end with \r\n.
    Ok(keys.split_terminator('\n'))
}

fn key_line(line: Option<&str>, name: &'static str) -> Result<SecretKey, &'static str> {
    let digits = line
        .and_then(|line| line.strip_prefix(name)?.strip_prefix(" = "))
        .ok_or("a line is missing or out of place")?;
    SecretKey::from_hex(digits).ok_or("a key is not 64 hexadecimal digits")
}

fn crc_of(covered: &str) -> String {
    format!("{:08x}", crc32fast::hash(covered.as_bytes()))
}

fn contents(kind: KeyKind, number: u32, keys: &[(&str, &SecretKey)]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(HEADER);
    text.push_str(&format!("{} = {number}\n", kind.name()));
    for (name, key) in keys {
        text.push_str(name);
        text.push_str(" = ");
        text.extend(key.hex_digits());
        text.push('\n');
    }
    let crc = crc_of(&text);
    text.push_str("crc32 = ");
    text.push_str(&crc);
    text.push('\n');
    text
}

/// The parent of `dir`, and a new name in it: the rename stays on one file system.
fn temporary_beside(dir: &Path, entropy: &dyn Entropy) -> io::Result<(PathBuf, PathBuf)> {
    let name = dir.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut random = [0; 8];
    entropy.fill(&mut random);
    let temporary = parent.join(format!(".{}.{}", name.display(), hex::encode(random)));
    Ok((parent, temporary))
}

fn write_files(dir: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let (generation, seal) = (GenerationKeys::draw(entropy), SecretKey::draw(entropy));
    let cache = SecretKey::draw(entropy);
    let keys = [
        ("tag_key", &generation.tag_key),
        ("pepper", &generation.pepper),
    ];
    write_file(dir, KeyKind::Generation, 1, &keys)?;
    write_file(dir, KeyKind::Seal, 1, &[("key", &seal)])?;
    write_file(dir, KeyKind::Cache, 1, &[("key", &cache)])?;
    File::open(dir)?.sync_all()
}

fn write_file(
    dir: &Path,
    kind: KeyKind,
    number: u32,
    keys: &[(&str, &SecretKey)],
) -> io::Result<()> {
    let path = dir.join(format!("{}-{number}", kind.name()));
    write_secret(&path, kind, number, keys)
}

fn write_secret(
    path: &Path,
    kind: KeyKind,
    number: u32,
    keys: &[(&str, &SecretKey)],
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents(kind, number, keys).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;

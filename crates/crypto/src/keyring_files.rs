//! The keyring as a directory of small text files, like a mounted secret: `generation-<n>`,
//! `seal-<n>`, `cache-<n>`, `foreign-1`, `import-<n>` and `audit-<n>`. `load` refuses every file that differs from the
//! form that this module writes. No error contains any of a file's contents.
//!
//! ```text
//! keyward keyring v1          the same in every file
//! generation = 1              or `seal = 1` and so on, as in the file's name
//! tag_key = <64 hex digits>   the files of other kinds have one line instead: `key = ...`
//! pepper = <64 hex digits>    the key of an import file has 1 to 1,024 bytes
//! crc32 = <8 hex digits>      CRC-32 of all bytes before this line
//! ```

mod adding;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

pub use adding::{add, add_import_secret};

use super::material::{
    GenerationKeys, ImportSecret, KeyKind, KeyName, KeyringMaterial, SecretKey, hex_digits,
};
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
        "{0:?} does not belong in a keyring, which holds only generation-<number>, seal-<number>, cache-<number>, foreign-1, import-<number> and audit-<number>: move it elsewhere, or restore its name if it was renamed"
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
    /// The file would be a second foreign pepper.
    #[error(
        "{0:?} would be a second foreign pepper, and a keyring has only foreign-1, which never changes: move the file elsewhere"
    )]
    SecondForeign(PathBuf),
    /// A secret that should be added is there.
    #[error("the keyring {0:?} has this secret already: nothing was changed")]
    Known(PathBuf),
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
        let name = name_of(&path)?;
        let KeyName { kind, number } = name;
        let text = read_text(&path)?;
        let damaged = |reason| KeyringError::Damaged {
            path: path.clone(),
            reason,
        };
        let mut lines = checked_lines(name, &text).map_err(damaged)?;
        let mut digits = |name| key_digits(lines.next(), name).map_err(damaged);
        let unique = |secret: &[u8]| match material.holds(secret) {
            true => Err(KeyringError::Duplicate(path.clone())),
            false => Ok(()),
        };
        let key = |digits| {
            let key = SecretKey::from_hex(digits);
            let key = key.ok_or_else(|| damaged("a key is not 64 hexadecimal digits"))?;
            unique(key.expose()).map(|()| key)
        };
        match kind {
            KeyKind::Generation => {
                let keys = GenerationKeys {
                    tag_key: key(digits("tag_key")?)?,
                    pepper: key(digits("pepper")?)?,
                };
                if keys.tag_key == keys.pepper {
                    return Err(KeyringError::Duplicate(path));
                }
                material.generations.insert(number, keys);
            }
            KeyKind::Seal => {
                let key = key(digits("key")?)?;
                material.seals.insert(number, key);
            }
            KeyKind::Cache => {
                let key = key(digits("key")?)?;
                material.caches.insert(number, key);
            }
            KeyKind::Audit => {
                let key = key(digits("key")?)?;
                material.audits.insert(number, key);
            }
            KeyKind::Foreign if number == 1 => material.foreign = Some(key(digits("key")?)?),
            KeyKind::Foreign => return Err(KeyringError::SecondForeign(path)),
            KeyKind::Import => {
                let secret = ImportSecret::from_hex(digits("key")?);
                let secret =
                    secret.ok_or_else(|| damaged("a key is not 2 to 2048 hexadecimal digits"))?;
                unique(secret.expose())?;
                material.imports.insert(number, secret);
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

/// Makes a new keyring in `dir` with generation 1, seal 1, cache 1, foreign 1 and audit 1, and reads it back. The
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

/// What shows that a file of the keyring was added, removed or changed: path, length and time of the last
/// change. Reads no file.
pub fn versions(dir: &Path) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let mut versions = Vec::new();
    for path in files_in(dir).map_err(io::Error::other)? {
        let metadata = fs::metadata(&path)?;
        versions.push((path, metadata.len(), metadata.modified()?));
    }
    Ok(versions)
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

fn name_of(path: &Path) -> Result<KeyName, KeyringError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    KeyName::parse(name).ok_or_else(|| {
        match name
            .split_once('-')
            .and_then(|(kind, _)| KeyKind::parse(kind))
        {
            Some(_) => KeyringError::Number(path.to_owned()),
            None => KeyringError::Unknown(path.to_owned()),
        }
    })
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
    name: KeyName,
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
        .filter(|(covered, _)| covered.ends_with('\n'))
        .ok_or("it is cut short: its last line is missing")?;
    // An editor or a secret manager may have removed the last newline.
    let crc = crc.strip_suffix('\n').unwrap_or(crc);
    if crc != crc_of(covered) {
        return Err("its checksum is wrong");
    }
    let head = head(name);
    let keys = covered
        .strip_prefix(head.as_str())
        .ok_or("its second line does not match its name")?;
    // `lines` would also accept lines that end with \r\n.
    Ok(keys.split_terminator('\n'))
}

fn key_digits<'l>(line: Option<&'l str>, name: &'static str) -> Result<&'l str, &'static str> {
    line.and_then(|line| line.strip_prefix(name)?.strip_prefix(" = "))
        .ok_or("a line is missing or out of place")
}

fn crc_of(covered: &str) -> String {
    format!("{:08x}", crc32fast::hash(covered.as_bytes()))
}

/// The first two lines.
fn head(name: KeyName) -> String {
    format!("{HEADER}{} = {}\n", name.kind.name(), name.number)
}

/// The lines of a generation.
fn lines(keys: &GenerationKeys) -> [(&'static str, &[u8]); 2] {
    [
        ("tag_key", keys.tag_key.expose()),
        ("pepper", keys.pepper.expose()),
    ]
}

fn contents(name: KeyName, keys: &[(&str, &[u8])]) -> Zeroizing<String> {
    // Full capacity from the start: text that grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE));
    text.push_str(&head(name));
    for (name, key) in keys {
        text.push_str(name);
        text.push_str(" = ");
        text.extend(hex_digits(key));
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
    let write = |kind: KeyKind, keys: &[(&str, &[u8])]| {
        let name = KeyName { kind, number: 1 };
        write_secret(&dir.join(name.to_string()), name, keys)
    };
    write(KeyKind::Generation, &lines(&GenerationKeys::draw(entropy)))?;
    for kind in [
        KeyKind::Seal,
        KeyKind::Cache,
        KeyKind::Foreign,
        KeyKind::Audit,
    ] {
        write(kind, &[("key", SecretKey::draw(entropy).expose())])?;
    }
    File::open(dir)?.sync_all()
}

fn write_secret(path: &Path, name: KeyName, keys: &[(&str, &[u8])]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents(name, keys).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests;

//! The lock of a database: one process holds it, and notices when the database file is replaced.
//!
//! Upholds for the embedded store what a committed heartbeat upholds for a shared one (I5): while
//! the lock is held, no other process is an instance on this database.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_store::{OpenError, Result, StoreError};

/// The lock of a database, held until this is dropped.
pub(super) struct DatabaseLock {
    /// The file `lock` beside the database, which contains the holder's process id.
    _lock: File,
    /// The database file. Locking it as well excludes a second instance that opens the file by
    /// another name, or after `lock` was deleted. SQLite's own locks are of another kind.
    _database: File,
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl DatabaseLock {
    /// Takes the lock. Creates the database file if it does not exist, readable by its owner only;
    /// the files that SQLite adds inherit this mode.
    pub(super) fn acquire(path: &Path) -> Result<Self, OpenError> {
        let lock_path = lock_path(path);
        let not_writable = |error: io::Error| {
            OpenError(format!(
                "{} cannot be opened for writing: {error}; the data directory must exist and \
                 belong to the user that keyward runs as",
                lock_path.display()
            ))
        };
        let mut lock = open(&lock_path).map_err(not_writable)?;
        if !try_lock(&lock).map_err(not_writable)? {
            return Err(held_by_another(&lock_path));
        }
        let not_writable = |error: io::Error| {
            OpenError(format!(
                "the database {} cannot be written: {error}",
                path.display()
            ))
        };
        let database = open(path).map_err(not_writable)?;
        if !try_lock(&database).map_err(not_writable)? {
            return Err(held_by_another(&lock_path));
        }
        let file = database.metadata().map_err(not_writable)?;
        // Only after both locks: a refused process must not overwrite the holder's id.
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!(%error, "the process id was not written to the lock file");
        }
        Ok(Self {
            _lock: lock,
            _database: database,
            path: path.to_path_buf(),
            device: file.dev(),
            inode: file.ino(),
        })
    }

    /// Fails if the file at the path is no longer the open one. Writes to the open file would be
    /// lost when this process ends.
    pub(super) fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(file) if (file.dev(), file.ino()) == (self.device, self.inode) => Ok(()),
            Ok(_) | Err(_) => Err(StoreError::Damaged(format!(
                "the database {} was moved or replaced while keyward used it. keyward answers and \
                 changes nothing until you put the file back, or restart it on the new file",
                self.path.display()
            ))),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// Locks `file`; `false` if another process holds the lock.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that holds the lock of the database at `path`, as far as it is known; `None` if no process
/// holds it.
///
/// # Errors
///
/// This user may not read the files.
pub fn holder(path: &Path) -> io::Result<Option<String>> {
    let lock_path = lock_path(path);
    for path in [&lock_path, path] {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Some(written_holder(&lock_path))),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

fn lock_path(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join("lock")
}

/// The process in the file `lock`.
fn written_holder(lock_path: &Path) -> String {
    let mut holder = String::new();
    let read = File::open(lock_path).and_then(|mut file| file.read_to_string(&mut holder));
    let is_known = read.is_ok() && !holder.trim().is_empty();
    let holder = if is_known { holder.trim() } else { "unknown" };
    holder.to_owned()
}

fn held_by_another(lock_path: &Path) -> OpenError {
    OpenError(format!(
        "{} is held by another keyward (process {}). The embedded store serves one process: \
         stop the other one, or set another data_dir",
        lock_path.display(),
        written_holder(lock_path)
    ))
}

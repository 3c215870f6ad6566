//! The place of the database: one process holds it, and notices when its file is no longer there.
//!
//! Upholds what a committed heartbeat upholds on a shared store (I5): while the locks are held no other
//! process is an instance on this database.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_store::{OpenError, Result, StoreError};

/// The locks of a database, held for as long as this lives.
pub(super) struct Place {
    /// `lock` beside the database: says who holds it.
    _note: File,
    /// The database itself (SQLite's own locks are of another kind): whatever name it was opened
    /// by, through links or beside a deleted `lock`, there is no second instance.
    _database: File,
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// Takes the locks; makes the database file, readable by its owner only, if there is none.
    /// (What SQLite puts beside it inherits its mode.)
    pub(super) fn take(path: &Path) -> std::result::Result<Self, OpenError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let name = directory.join("lock");
        let cannot = |error: io::Error| {
            OpenError(format!(
                "{} cannot be opened for writing: {error}; the data directory must exist and \
                 belong to the user that keyward runs as",
                name.display()
            ))
        };
        let mut note = open(&name).map_err(cannot)?;
        let held = || OpenError(held_by(&name));
        lock(&note).map_err(cannot)?.ok_or_else(held)?;
        let cannot = |error: io::Error| {
            OpenError(format!(
                "the database {} cannot be written: {error}",
                path.display()
            ))
        };
        let database = open(path).map_err(cannot)?;
        lock(&database).map_err(cannot)?.ok_or_else(held)?;
        let found = database.metadata().map_err(cannot)?;
        // Only now: a process that is refused leaves the note of the holder as it is.
        let noted = note
            .set_len(0)
            .and_then(|()| note.rewind())
            .and_then(|()| writeln!(note, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(%error, "the process id could not be noted in the lock");
        }
        Ok(Self {
            _note: note,
            _database: database,
            path: path.to_path_buf(),
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Refuses to go on when the file at the path is no longer the one that is open: what is
    /// written to that would be gone with this process.
    pub(super) fn check(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(()),
            Ok(_) | Err(_) => Err(StoreError::Damaged(format!(
                "the database {} was moved or replaced while it was in use: nothing can be \
                 answered or changed; put it back, or restart on what is there now",
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

/// `None` when another process holds it.
fn lock(file: &File) -> io::Result<Option<()>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn held_by(name: &Path) -> String {
    let mut holder = String::new();
    let read = File::open(name).and_then(|mut note| note.read_to_string(&mut holder));
    let known = read.is_ok() && !holder.trim().is_empty();
    let holder = if known { holder.trim() } else { "unknown" };
    format!(
        "{} is held by another keyward (process {holder}): the embedded store serves one process; \
         stop that one, or give this one another data_dir",
        name.display()
    )
}

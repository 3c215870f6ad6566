//! Reading a file that holds a secret: whole, bounded, into memory that is wiped; and not at all when
//! every user of the machine could read or change it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Why a private file is not read.
#[derive(Debug)]
pub enum PrivateFileError {
    /// It is there, and is no file.
    NoFile,
    /// Every user of the machine can read or change it.
    Exposed,
    /// It holds more bytes than it may.
    TooLong,
    /// The system does not let it be read.
    Read(io::Error),
}

/// Reads the file at `path` of at most `limit` bytes. Links are followed: so a mounted Kubernetes
/// secret looks.
///
/// # Errors
///
/// What is wrong with the file; never anything of its contents.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(PrivateFileError::NoFile);
    }
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o007 != 0 {
        return Err(PrivateFileError::Exposed);
    }
    // Room for all of it: a buffer that grew would leave secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 64));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        true => Err(PrivateFileError::TooLong),
        false => Ok(bytes),
    }
}

impl From<io::Error> for PrivateFileError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

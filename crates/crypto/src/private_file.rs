//! Reads a file that holds a secret, with a size limit, into memory that is wiped. It refuses a file
//! that every user of the machine can read or change.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Why a private file was not read.
#[derive(Debug)]
pub enum PrivateFileError {
    /// The path is not a regular file.
    NoFile,
    /// Every user of the machine can read or change the file.
    Exposed,
    /// The file is larger than the limit.
    TooLong,
    /// The system returned an error.
    Read(io::Error),
}

/// Reads the file at `path`, of at most `limit` bytes. It follows links, because a mounted
/// Kubernetes secret consists of links.
///
/// # Errors
///
/// The error never contains any of the file's contents.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // Check the type first: to open a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(PrivateFileError::NoFile);
    }
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o007 != 0 {
        return Err(PrivateFileError::Exposed);
    }
    // Full capacity from the start: a buffer that grows leaves copies of the secret behind.
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

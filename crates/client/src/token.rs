//! This client's own token: fixed, or read from a file that may change.
//!
//! A rotated token needs no restart. A file without a token (empty, missing, two words) changes
//! nothing: the last token stays in use. Part of a token looks like a token, so a rotation must
//! replace the whole file at once.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use crate::{BuildError, Secret};

/// The file is read at most this often. The file is small, and its text shows every change; its
/// time and inode do not.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same, while the service refuses the token and each refused call asks for a new one.
const REFUSED_INTERVAL: Duration = Duration::from_millis(20);
/// A longer text is not a token.
const MAX_LENGTH: usize = 4096;

type Header = MetadataValue<Ascii>;

/// The token as a header. The generation changes with each new token.
#[derive(Clone)]
pub(crate) struct Token {
    /// `None`: the client has no token.
    pub(crate) header: Option<Header>,
    pub(crate) generation: u64,
}

/// Provides the token for each attempt.
pub(crate) struct TokenSource {
    /// `None`: the token never changes.
    file: Option<PathBuf>,
    state: Mutex<State>,
    /// When the file was last read because the service refused the token. The task that holds the
    /// lock reads; the others wait for the result.
    refused_read: tokio::sync::Mutex<Option<Instant>>,
}

struct State {
    token: Token,
    last_read: Instant,
    /// Whether the log already says that the file is bad.
    is_logged: bool,
}

impl TokenSource {
    /// No token.
    pub(crate) fn none() -> Self {
        Self::new(None, None)
    }

    /// A token that never changes.
    pub(crate) fn fixed(token: &Secret) -> Result<Self, BuildError> {
        let header = header(token.expose()).ok_or(BuildError::Token)?;
        Ok(Self::new(None, Some(header)))
    }

    /// The token in the file `path`, now and later.
    pub(crate) fn file(path: PathBuf) -> Result<Self, BuildError> {
        let header = read(&path).map_err(|error| BuildError::TokenFile(path.clone(), error))?;
        Ok(Self::new(Some(path), Some(header)))
    }

    fn new(file: Option<PathBuf>, header: Option<Header>) -> Self {
        let token = Token {
            header,
            generation: 0,
        };
        let state = State {
            token,
            last_read: Instant::now(),
            is_logged: false,
        };
        Self {
            file,
            state: Mutex::new(state),
            refused_read: tokio::sync::Mutex::default(),
        }
    }

    /// The token. Once per interval, one of the callers reads the file first.
    pub(crate) async fn current(&self) -> Token {
        let is_due = {
            let mut state = self.state.lock();
            let is_due = state.last_read.elapsed() >= INTERVAL;
            if is_due {
                state.last_read = Instant::now();
            }
            is_due
        };
        if is_due {
            self.read().await;
        }
        self.last()
    }

    /// The token that was last read.
    pub(crate) fn last(&self) -> Token {
        self.state.lock().token.clone()
    }

    /// Whether a token newer than the refused one of `generation` exists. Reads the file, once for
    /// all calls that are refused at the same time.
    pub(crate) async fn is_renewed(&self, generation: u64) -> bool {
        let mut refused_read = self.refused_read.lock().await;
        let is_due = refused_read.is_none_or(|at| at.elapsed() >= REFUSED_INTERVAL);
        if self.last().generation == generation && is_due {
            self.read().await;
            *refused_read = Some(Instant::now());
        }
        self.last().generation != generation
    }

    async fn read(&self) {
        let Some(path) = self.file.clone() else {
            return;
        };
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut state = self.state.lock();
        state.last_read = Instant::now();
        match read.map(Some) {
            Ok(header) if header == state.token.header => state.is_logged = false,
            Ok(header) => {
                state.token = Token {
                    header,
                    generation: state.token.generation + 1,
                };
                state.is_logged = false;
                tracing::info!(file = %path.display(), "the token file changed; its token is in use");
            }
            Err(error) => {
                if !std::mem::replace(&mut state.is_logged, true) {
                    tracing::warn!(
                        file = %path.display(), %error,
                        "the token file cannot be used; the last token stays in use"
                    );
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Header> {
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path)?;
    file.take(MAX_LENGTH as u64 + 1).read_to_string(&mut text)?;
    let no_token = || io::Error::new(io::ErrorKind::InvalidData, "it does not hold one token");
    header(&text).ok_or_else(no_token)
}

/// The header for the token in `text`, without white space around it; `None` if it is not a token.
fn header(text: &str) -> Option<Header> {
    let token = text.trim_ascii();
    let is_token = !token.is_empty()
        && token.len() <= MAX_LENGTH
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut header = MetadataValue::try_from(text.as_str()).ok()?;
    header.set_sensitive(true);
    is_token.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_exactly_one_token_is_accepted() {
        for text in ["kwt_canary", "kwt_canary\n", " kwt_canary\r\n"] {
            let header = header(text).unwrap();
            assert_eq!(header.to_str().unwrap(), "Bearer kwt_canary");
            assert!(!format!("{header:?}").contains("canary"));
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        for text in ["", "\n", "kwt_canary x", "kwt_a\nkwt_b", "kwt_é", &long] {
            assert!(header(text).is_none(), "{text}");
        }
    }

    #[tokio::test]
    async fn changed_file_is_used_and_bad_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "kwt_first\n").unwrap();
        let source = TokenSource::file(path.clone()).unwrap();
        let current = async || {
            source.read().await;
            let token = source.last();
            let header = token.header.unwrap();
            (header.to_str().unwrap().to_owned(), token.generation)
        };
        let first = ("Bearer kwt_first".to_owned(), 0);
        assert_eq!(current().await, first);
        for bad in ["", "two tokens"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(current().await, first);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(current().await, first);
        assert!(source.state.lock().is_logged);

        // A mounted secret changes this way: another file gets the same name.
        let next = directory.path().join("next");
        std::fs::write(&next, "kwt_other\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        let other = ("Bearer kwt_other".to_owned(), 1);
        assert_eq!(current().await, other);
        assert!(!source.state.lock().is_logged);
        assert_eq!(
            current().await,
            other,
            "the same token keeps its generation"
        );
    }
}

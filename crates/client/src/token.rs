//! This client's own token: given once, or read from a file that may change.
//!
//! A rotated token needs no restart, and a file that holds no token for a while (empty, gone, two
//! words) changes nothing: the last token stays. A part of a token looks like a token, so whoever
//! rotates one puts a whole file in the place of the old one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use crate::{BuildError, Secret};

/// How often the file is read at most: it is a small file, and its text tells of every change,
/// which times and inodes do not.
const INTERVAL: Duration = Duration::from_secs(1);
/// While the token is refused, each call that is refused asks for the file; it is read so often.
const MOMENT: Duration = Duration::from_millis(20);
/// What is longer is no token.
const MAX_LENGTH: usize = 4096;

/// The token as a header, and which one it is.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) header: MetadataValue<Ascii>,
    /// Another number is another token.
    pub(crate) generation: u64,
}

/// Where the token comes from.
pub(crate) struct TokenSource {
    /// `None`: it never changes.
    file: Option<PathBuf>,
    state: Mutex<State>,
    /// When the file was last read because the token was refused. Who holds it reads; the others
    /// wait for what comes of it.
    refused: tokio::sync::Mutex<Option<Instant>>,
}

struct State {
    token: Token,
    looked: Instant,
    /// Whether the log was told that the file is bad.
    told: bool,
}

impl TokenSource {
    /// A token that stays.
    pub(crate) fn fixed(token: &Secret) -> Result<Self, BuildError> {
        let header = header(token.expose()).ok_or(BuildError::Token)?;
        Ok(Self::new(None, header))
    }

    /// The token in `path`, now and later.
    pub(crate) fn file(path: PathBuf) -> Result<Self, BuildError> {
        let fail = |error| BuildError::TokenFile(path.clone(), error);
        let file = std::fs::File::open(&path).map_err(fail)?;
        let mut text = Zeroizing::new(String::new());
        let limited = io::Read::take(file, MAX_LENGTH as u64 + 1);
        io::Read::read_to_string(&mut { limited }, &mut text).map_err(fail)?;
        let header = header(&text).ok_or_else(|| fail(no_token()))?;
        Ok(Self::new(Some(path), header))
    }

    fn new(file: Option<PathBuf>, header: MetadataValue<Ascii>) -> Self {
        let token = Token {
            header,
            generation: 0,
        };
        let state = State {
            token,
            looked: Instant::now(),
            told: false,
        };
        Self {
            file,
            state: Mutex::new(state),
            refused: tokio::sync::Mutex::default(),
        }
    }

    /// The token. Now and then one of those who ask reads the file first.
    pub(crate) async fn current(&self) -> Token {
        let due = {
            let mut state = self.state.lock();
            let due = state.looked.elapsed() >= INTERVAL;
            if due {
                state.looked = Instant::now();
            }
            due
        };
        if due {
            self.read().await;
        }
        self.last()
    }

    /// The token that is known.
    pub(crate) fn last(&self) -> Token {
        self.state.lock().token.clone()
    }

    /// Whether there is another token than the one of `generation`, which was refused. The file is
    /// read for that; once, however many calls were refused in the same moment.
    pub(crate) async fn is_renewed(&self, generation: u64) -> bool {
        let mut refused = self.refused.lock().await;
        let is_due = refused.is_none_or(|at| at.elapsed() >= MOMENT);
        if self.last().generation == generation && is_due {
            self.read().await;
            *refused = Some(Instant::now());
        }
        self.last().generation != generation
    }

    async fn read(&self) {
        let Some(path) = &self.file else { return };
        let read = read(path).await;
        let mut state = self.state.lock();
        state.looked = Instant::now();
        match read {
            Ok(header) if header == state.token.header => state.told = false,
            Ok(header) => {
                state.token = Token {
                    header,
                    generation: state.token.generation + 1,
                };
                state.told = false;
                tracing::info!(file = %path.display(), "the token file changed, and is used");
            }
            Err(error) => {
                if !std::mem::replace(&mut state.told, true) {
                    tracing::warn!(
                        file = %path.display(), %error,
                        "the token file cannot be used; the last token from it stays"
                    );
                }
            }
        }
    }
}

async fn read(path: &Path) -> io::Result<MetadataValue<Ascii>> {
    let file = tokio::fs::File::open(path).await?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_LENGTH as u64 + 1)
        .read_to_string(&mut text)
        .await?;
    header(&text).ok_or_else(no_token)
}

fn no_token() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not hold one token")
}

/// The header for the token in `text`, without the line end; `None` if it holds no token.
fn header(text: &str) -> Option<MetadataValue<Ascii>> {
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
    fn only_one_token_is_a_token() {
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
    async fn a_changed_file_is_used_and_a_bad_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "kwt_first\n").unwrap();
        let source = TokenSource::file(path.clone()).unwrap();
        let shown = async || {
            source.read().await;
            let token = source.last();
            (token.header.to_str().unwrap().to_owned(), token.generation)
        };
        let first = ("Bearer kwt_first".to_owned(), 0);
        assert_eq!(shown().await, first);
        for bad in ["", "two tokens"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(shown().await, first);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(shown().await, first);
        assert!(source.state.lock().told);

        // As mounted secrets change: another file under the same name.
        let next = directory.path().join("next");
        std::fs::write(&next, "kwt_other\n").unwrap();
        std::fs::rename(&next, &path).unwrap();
        let other = ("Bearer kwt_other".to_owned(), 1);
        assert_eq!(shown().await, other);
        assert!(!source.state.lock().told);
        assert_eq!(shown().await, other, "the same token is no change");
    }
}

//! Setting a client up. Wrong settings are refused here, with a text that says what to do, and
//! nowhere else.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::balance::{Balance, Node};
use crate::call::{Caller, Patience};
use crate::endpoint::{Reach, connection};
use crate::token::TokenSource;
use crate::{Client, Secret};

/// The longest first pause before a repeated Verify: somebody waits for the answer.
const VERIFY_PAUSE: Duration = Duration::from_millis(20);
/// ... before a repeated change.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);

/// Sets up a [`Client`]: [`Client::builder`].
#[derive(Debug)]
#[must_use]
pub struct Builder {
    endpoints: Vec<String>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    timeout: Duration,
    change_timeout: Duration,
    connect_timeout: Duration,
    insecure: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            token: None,
            token_file: None,
            ca_file: None,
            timeout: Duration::from_secs(1),
            change_timeout: Duration::from_secs(75),
            connect_timeout: Duration::from_secs(2),
            insecure: false,
        }
    }
}

impl Builder {
    /// Adds an instance of Keyward: `https://host:port`, or `http://` to loopback. Calls are
    /// balanced over all of them.
    ///
    /// There is one connection for each endpoint. A name that stands for several addresses is
    /// resolved at each connect, and the addresses are tried in turn until one connects: that is
    /// failover, not balancing. Name each instance to balance over them.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoints.push(url.into());
        self
    }

    /// Adds several instances: [`Self::endpoint`] for each.
    pub fn endpoints<U: Into<String>>(mut self, urls: impl IntoIterator<Item = U>) -> Self {
        self.endpoints.extend(urls.into_iter().map(Into::into));
        self
    }

    /// This client's own token, which stays as it is. Either this or [`Self::token_file`] is needed.
    pub fn token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// The file that holds this client's own token. It is read now, and about once a second while
    /// calls are made, so a rotated token needs no restart. While it cannot be read or holds no
    /// token, the last one stays, and a warning is logged once.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// A PEM file with the certificates of the authorities to trust, *instead of* the system's: who
    /// has a private authority wants no public one to vouch for Keyward. Read once, now.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// How long a Verify, a read or a health check may take in all, retries included. 1 second
    /// unless set; with several endpoints the first gets half of it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a change (Issue, Revoke, Update) may take in all, retries included. 75 seconds
    /// unless set: a Revoke may lawfully wait for an instance for as long as the deployment's
    /// `max_staleness`, which is at most a minute.
    pub fn change_timeout(mut self, timeout: Duration) -> Self {
        self.change_timeout = timeout;
        self
    }

    /// How long a connection may take to be made, TLS included. 2 seconds unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether `http://` may name a host other than loopback. The token and every key then go over
    /// the network in clear text; for networks that encrypt by themselves.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// The client. Reads the files, and connects to nobody: connections are made when they are
    /// first used, and again when they break. So a client starts also while Keyward is away.
    ///
    /// # Errors
    ///
    /// When a setting is wrong or missing, a file cannot be used, or no tokio runtime runs.
    pub fn build(self) -> Result<Client, BuildError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        if self.endpoints.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        for (name, timeout) in [
            ("timeout", self.timeout),
            ("change_timeout", self.change_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if timeout.is_zero() || timeout > MAX_TIMEOUT {
                return Err(BuildError::Timeout(name));
            }
        }
        let token = match (&self.token, self.token_file) {
            (Some(token), None) => TokenSource::fixed(token)?,
            (None, Some(path)) => TokenSource::file(path)?,
            (None, None) | (Some(_), Some(_)) => return Err(BuildError::TokenSetting),
        };
        let reach = Reach {
            connect_timeout: self.connect_timeout,
            authorities: self.ca_file.map(authorities).transpose()?,
            insecure: self.insecure,
        };
        let nodes = self.endpoints.into_iter().map(|name| {
            let channel = connection(&name, &reach)?;
            Ok(Node::new(name, channel))
        });
        let balance = Balance::new(nodes.collect::<Result<_, _>>()?);
        Ok(Client::new(
            Caller { balance, token },
            Patience {
                total: self.timeout,
                pause: VERIFY_PAUSE,
                reads: true,
            },
            Patience {
                total: self.change_timeout,
                pause: CHANGE_PAUSE,
                reads: false,
            },
        ))
    }
}

/// Longer is a mistake, and must not overflow a deadline.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates in a file. That there is one is checked here: the transport would take none and
/// then trust nobody.
fn authorities(path: PathBuf) -> Result<Vec<u8>, BuildError> {
    let fail = |error| BuildError::CaFile(path.clone(), error);
    let text = std::fs::read(&path).map_err(fail)?;
    let mark: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if !text.windows(mark.len()).any(|part| part == mark) {
        let none = "it holds no certificate in PEM form";
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, none)));
    }
    Ok(text)
}

/// A setting that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No endpoint was named.
    #[error("no endpoint: name at least one instance of Keyward, such as https://keyward:50051")]
    NoEndpoint,
    /// This is no endpoint, for this reason.
    #[error("the endpoint {0}: {1}")]
    Endpoint(String, &'static str),
    /// TLS to this endpoint cannot be set up.
    #[error("the endpoint {0}: TLS cannot be set up: {cause}", cause = root_cause(.1))]
    Tls(String, #[source] tonic::transport::Error),
    /// There must be one token: a text or a file.
    #[error("set either token or token_file")]
    TokenSetting,
    /// The text is no token.
    #[error("the token is empty, or is not printable ASCII without spaces")]
    Token,
    /// The token file cannot be used.
    #[error("the token file {path}: {1}", path = .0.display())]
    TokenFile(PathBuf, #[source] io::Error),
    /// The file with the authorities cannot be used.
    #[error("the CA file {path}: {1}", path = .0.display())]
    CaFile(PathBuf, #[source] io::Error),
    /// This timeout is out of range.
    #[error("{0} must be more than nothing and at most a day")]
    Timeout(&'static str),
    /// Connections live on a tokio runtime, and none runs.
    #[error("no tokio runtime: build the client inside one")]
    NoRuntime,
}

fn root_cause(error: &tonic::transport::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

//! Sets up a client, and refuses wrong settings with a text that says what to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::balance::{Balance, Endpoint};
use crate::call::{AddHeaders, Caller, Policy};
use crate::certificate::{CertificateFiles, CertificateSource};
use crate::endpoint::{ConnectOptions, connections};
use crate::token::TokenSource;
use crate::{Client, Secret, error};

/// The longest first pause before a read is repeated: a request waits for the answer.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// The longest first pause before a change is repeated.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);
/// A longer time limit is a mistake, and could overflow a deadline.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Sets up a [`Client`]: see [`Client::builder`].
#[derive(Debug)]
#[must_use]
pub struct Builder {
    endpoints: Vec<String>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    has_token: bool,
    ca_file: Option<PathBuf>,
    certificate: Option<CertificateFiles>,
    server_name: Option<String>,
    timeout: Duration,
    change_timeout: Duration,
    connect_timeout: Duration,
    retries: u32,
    insecure: bool,
    headers: AddHeaders,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            token: None,
            token_file: None,
            has_token: true,
            ca_file: None,
            certificate: None,
            server_name: None,
            timeout: Duration::from_secs(1),
            change_timeout: Duration::from_secs(75),
            connect_timeout: Duration::from_secs(2),
            retries: 3,
            insecure: false,
            headers: AddHeaders::default(),
        }
    }
}

impl Builder {
    /// Adds an instance of Keyward: `https://host:port`, or `http://` to loopback. Calls are
    /// balanced over all endpoints. A text may hold several, separated by commas; white space around
    /// each is ignored.
    ///
    /// Each endpoint has one connection. A name with several addresses is resolved at each connect,
    /// and the addresses are tried in turn: that gives failover, not balancing. To balance, add each
    /// instance.
    pub fn endpoint(self, url: impl Into<String>) -> Self {
        self.endpoints([url])
    }

    /// Adds several instances, each as [`Self::endpoint`] does.
    pub fn endpoints<U: Into<String>>(mut self, urls: impl IntoIterator<Item = U>) -> Self {
        for text in urls {
            let urls: String = text.into();
            self.endpoints
                .extend(urls.split(',').map(|url| url.trim().to_owned()));
        }
        self
    }

    /// Sets this client's own token, which never changes. One of this, [`Self::token_file`] and
    /// [`Self::client_certificate`] is required.
    pub fn token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the file with this client's own token. The file is read now, and about once a second
    /// while calls are made, so a rotated token needs no restart. While the file holds no token, the
    /// last token stays in use, and one warning is logged.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the PEM files with this client's own certificate, followed by its chain, and with its private key.
    /// With them the client needs no token; if it has one, the token decides who it is. The files are read now,
    /// and about once a second while calls are made. While they cannot be used, the last certificate stays in
    /// use, and one warning is logged.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificate = Some(CertificateFiles {
            certificate: certificate.into(),
            key: key.into(),
        });
        self
    }

    /// Builds a client without a token. Only [`Client::health`] succeeds without one.
    pub fn without_token(mut self) -> Self {
        self.has_token = false;
        self
    }

    /// Sets a PEM file with the authorities to trust *instead of* the system's: with a private
    /// authority, no public one may vouch for Keyward. The file is read once, now.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets the name that the servers' certificates must prove, instead of the host in each endpoint.
    /// For endpoints that are named by an address which is not in the certificate.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Limits the time of a read (Verify, Get, List) or health check, retries included. 1 second by
    /// default. With several endpoints, the first attempt gets half of it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Limits the time of a change (Issue, Revoke, Update), retries included. 75 seconds by default:
    /// a Revoke may have to wait for the deployment's `max_staleness`, which is at most a minute. A change of
    /// many keys needs more: 1,000,000 can take some minutes.
    pub fn change_timeout(mut self, timeout: Duration) -> Self {
        self.change_timeout = timeout;
        self
    }

    /// Limits the time to connect: once for TCP and once for the TLS handshake. 2 seconds by default.
    /// The time limit of the call includes both.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how often a failed call is repeated at most. 3 by default.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets whether `http://` may name a host other than loopback. The token and every key then cross
    /// the network in clear text. Only for networks that encrypt all traffic themselves.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Lets `add` put headers on each attempt of each call, such as `traceparent`. It runs in the task and in
    /// the span of the call, so it must be fast.
    pub fn headers(mut self, add: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        self.headers = AddHeaders(Some(Arc::new(add)));
        self
    }

    /// Builds the client. This reads the files but does not connect, so a client starts even while
    /// Keyward is unavailable. Connections are made when they are first used, and made again when they break.
    ///
    /// # Errors
    ///
    /// If a setting is wrong or missing, a file cannot be used, or no tokio runtime runs.
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
        let options = ConnectOptions {
            timeout: self.connect_timeout,
            authorities: self.ca_file.map(authorities).transpose()?,
            certificate: self
                .certificate
                .as_ref()
                .map(|files| files.read())
                .transpose()?,
            server_name: self.server_name,
            insecure: self.insecure,
        };
        let endpoints = self.endpoints.into_iter().map(|url| {
            let channels = connections(&url, &options)?;
            Ok(Endpoint::new(url, channels))
        });
        let balance = Balance::new(endpoints.collect::<Result<_, _>>()?);
        let token = match (self.has_token, &self.token, self.token_file) {
            (true, Some(token), None) => TokenSource::fixed(token)?,
            (true, None, Some(path)) => TokenSource::file(path)?,
            (true, None, None) if self.certificate.is_some() => TokenSource::none(),
            (false, None, None) => TokenSource::none(),
            _ => return Err(BuildError::TokenSetting),
        };
        Ok(Client::new(Caller {
            balance,
            token,
            certificate: self
                .certificate
                .map(|files| CertificateSource::new(files, options)),
            reads: Policy {
                total: self.timeout,
                pause: READ_PAUSE,
            },
            changes: Policy {
                total: self.change_timeout,
                pause: CHANGE_PAUSE,
            },
            retries: self.retries,
            headers: self.headers,
        }))
    }
}

/// The certificates in a file. The transport would accept a file without one and then trust no
/// server, so the check is here.
fn authorities(path: PathBuf) -> Result<Vec<u8>, BuildError> {
    let fail = |error| BuildError::CaFile(path.clone(), error);
    let text = std::fs::read(&path).map_err(fail)?;
    let marker: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if !text.windows(marker.len()).any(|part| part == marker) {
        let none = "it holds no certificate in PEM format";
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, none)));
    }
    Ok(text)
}

/// A wrong setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No endpoint was given.
    #[error("no endpoint: add at least one instance of Keyward, such as https://keyward:50051")]
    NoEndpoint,
    /// This URL cannot be an endpoint, for this reason.
    #[error("the endpoint '{0}' {1}")]
    Endpoint(String, &'static str),
    /// TLS to this endpoint cannot be set up.
    #[error("the endpoint {0}: TLS cannot be set up: {cause}", cause = error::innermost(.1))]
    Tls(String, #[source] tonic::transport::Error),
    /// A client needs exactly one token, a text or a file, or a certificate.
    #[error("set either token or token_file, or a client certificate")]
    TokenSetting,
    /// The text is not a token.
    #[error("the token is empty, or is not printable ASCII without spaces")]
    Token,
    /// The token file cannot be used.
    #[error("the token file {path}: {1}", path = .0.display())]
    TokenFile(PathBuf, #[source] io::Error),
    /// The CA file cannot be used.
    #[error("the CA file {path}: {1}", path = .0.display())]
    CaFile(PathBuf, #[source] io::Error),
    /// A file of the client's own certificate cannot be used.
    #[error("the client certificate {path}: {1}", path = .0.display())]
    ClientCertificate(PathBuf, #[source] io::Error),
    /// This time limit is out of range.
    #[error("{0} must be more than 0 and at most 24h")]
    Timeout(&'static str),
    /// Connections need a tokio runtime, and none runs.
    #[error("no tokio runtime: build the client inside one")]
    NoRuntime,
}

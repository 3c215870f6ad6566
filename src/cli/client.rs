//! Reaching the service: endpoint, token, and what its errors mean to the user.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_proto::v1::admin_service_client::AdminServiceClient;
use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::input::without_line_end;
use super::{Failure, Reach, trust};
use crate::config::{Settings, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The service, as one caller reaches it.
pub(super) struct Client {
    pub(super) keys: ApiKeyServiceClient<InterceptedService<Channel, Bearer>>,
    pub(super) admin: AdminServiceClient<InterceptedService<Channel, Bearer>>,
    token_file: PathBuf,
    timeout: Duration,
}

/// Adds the caller's token to each call.
#[derive(Clone)]
pub(super) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Client {
    /// Connects. Flags heartbeat variables, variables heartbeat what the settings say of the service here.
    pub(super) async fn connect(reach: &Reach<'_>) -> Result<Self, Failure> {
        let Reach {
            options,
            environment,
            settings,
        } = reach;
        let token_file = match (
            &options.token_file,
            variable(environment, "KEYWARD_TOKEN_FILE"),
        ) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => settings.data_dir.join("admin.token"),
        };
        let bearer = bearer(&token_file)?;
        let channel = channel(reach).await?;
        Ok(Self {
            keys: ApiKeyServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            admin: AdminServiceClient::with_interceptor(channel, bearer),
            token_file,
            timeout: options.timeout,
        })
    }

    /// What a call's error means, and what to do.
    pub(super) fn explain(&self, status: &Status) -> Failure {
        let mut text = match status.get_details_error_info() {
            Some(info) => format!("{}: {}", info.reason, status.message()),
            None => format!("{}: {}", status.code().description(), status.message()),
        };
        for violation in status
            .get_details_bad_request()
            .iter()
            .flat_map(|b| &b.field_violations)
        {
            // Mostly the text says so already.
            let said = format!("{}: {}", violation.field, violation.description);
            if !text.contains(&said) {
                text.push_str(&format!("\n  {said}"));
            }
        }
        if let Some(advice) = self.advice(status) {
            text.push_str("\n  ");
            text.push_str(&advice);
        }
        Failure::Failed(text)
    }

    fn advice(&self, status: &Status) -> Option<String> {
        let info = status.get_details_error_info();
        let file = self.token_file.display();
        match (
            status.code(),
            info.as_ref().map(|info| info.reason.as_str()),
        ) {
            (_, Some("REVOKE_UNCONFIRMED")) => {
                Some("it is committed; repeat the command until it is proven".into())
            }
            (_, Some("OUTCOME_UNKNOWN")) => Some(
                "repeat the command; that is safe, except for token create: see token list first"
                    .into(),
            ),
            (Code::Unauthenticated, _) => Some(format!(
                "the token was read from {file}; another is named with --token-file"
            )),
            (Code::PermissionDenied, _) => Some(format!(
                "use a token that holds the role; this one was read from {file}"
            )),
            (Code::Unavailable, Some(_)) => Some("repeat the command; that is safe".into()),
            (Code::Cancelled | Code::DeadlineExceeded, None) => Some(format!(
                "there was no answer within {}; a longer time is given with --timeout",
                humantime::format_duration(self.timeout)
            )),
            (Code::Unavailable | Code::Unknown | Code::Unimplemented | Code::Internal, None) => {
                Some(
                    "is the endpoint a keyward service, and does it still run? one with TLS takes \
                     https://"
                        .into(),
                )
            }
            _ => None,
        }
    }
}

/// Connects, without a token.
pub(super) async fn channel(reach: &Reach<'_>) -> Result<Channel, Failure> {
    let (url, tls) = endpoint(reach)?;
    let timeout = reach.options.timeout;
    let patience = CONNECT_TIMEOUT.min(timeout);
    let refused = |error| Failure::Usage(format!("the endpoint {url}: {}", innermost(&error)));
    let mut endpoint = Endpoint::from_shared(url.expose().to_owned())
        .map_err(refused)?
        .connect_timeout(patience)
        .timeout(timeout);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(refused)?;
    }
    // The endpoint's own bound ends with TCP, and leaves out TLS.
    match tokio::time::timeout(patience, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unconnected(&url, &innermost(&error))),
        Err(_) => Err(unconnected(
            &url,
            &format!("no answer within {}", humantime::format_duration(patience)),
        )),
    }
}

/// That there is no connection, why, and what to look at.
fn unconnected(url: &Url, cause: &str) -> Failure {
    let advice = if cause.contains("CaUsedAsEndEntity") {
        "the service shows the certificate of an authority, which is not taken for its own: one that \
         signs itself is made with -addext basicConstraints=critical,CA:FALSE"
    } else if cause.contains("certificate") {
        "another authority is named with --ca-file or KEYWARD_CA_FILE, the name that is proven is \
         that of the endpoint"
    } else if cause.contains("InvalidContentType") {
        "it speaks no TLS: is it a keyward service that takes http://?"
    } else {
        "is the service running? another endpoint is named with --endpoint or KEYWARD_ENDPOINT"
    };
    Failure::Failed(format!("cannot connect to {url}: {cause}\n  {advice}"))
}

fn variable<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsString> {
    environment
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// Where the service is, and whom to believe that it is the service, if that is to be proven.
fn endpoint(reach: &Reach<'_>) -> Result<(Url, Option<ClientTlsConfig>), Failure> {
    let Reach {
        options,
        environment,
        settings,
    } = reach;
    let ca_file = match (&options.ca_file, variable(environment, "KEYWARD_CA_FILE")) {
        (Some(path), _) => Some(path.clone()),
        (None, path) => path.map(PathBuf::from),
    };
    let url = match (&options.endpoint, variable(environment, "KEYWARD_ENDPOINT")) {
        (Some(url), _) => url.clone(),
        (None, Some(text)) => Url::new(&text.to_string_lossy())
            .map_err(|reason| Failure::Usage(format!("KEYWARD_ENDPOINT: {reason}")))?,
        (None, None) => return of_this_machine(settings, ca_file.as_deref()),
    };
    let tls = match url.expose().starts_with("https") {
        true => Some(trust::named(ca_file.as_deref())?),
        false => None,
    };
    Ok((url, tls))
}

/// The service that the settings here speak of.
fn of_this_machine(
    settings: &Settings,
    ca_file: Option<&Path>,
) -> Result<(Url, Option<ClientTlsConfig>), Failure> {
    if settings.listen.port() == 0 {
        return Err(Failure::Usage(
            "the setting `listen` has port 0; name the service with --endpoint".into(),
        ));
    }
    let reached = reachable(settings.listen);
    let (scheme, tls) = match &settings.tls_cert {
        Some(own) => {
            let tls = trust::of_this_machine(ca_file, own, reached.ip())?;
            ("https", Some(tls))
        }
        None => ("http", None),
    };
    let url = Url::new(&format!("{scheme}://{reached}")).map_err(Failure::Usage)?;
    Ok((url, tls))
}

/// One listens on a wildcard, and connects to an address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The token in `path`, never repeated in an error.
fn bearer(path: &Path) -> Result<Bearer, Failure> {
    let at = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::NotFound => {
                "\n  the service writes its first token to admin.token in data_dir when it starts for \
                 the first time; another file is named with --token-file or KEYWARD_TOKEN_FILE"
            }
            _ => "",
        };
        Failure::Failed(format!("the token file {at}: {error}{advice}"))
    })?;
    let text = zeroize::Zeroizing::new(text);
    let token = without_line_end(&text);
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = zeroize::Zeroizing::new(format!("Bearer {token}"));
    match MetadataValue::try_from(header.as_str()) {
        Ok(mut value) if is_token => {
            value.set_sensitive(true);
            Ok(Bearer(value))
        }
        _ => Err(Failure::Failed(format!(
            "the token file {at} does not hold one token"
        ))),
    }
}

/// The transport's own text says no more than that there was an error.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_on_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn a_token_file_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, fine) in [
            ("kwt_canary\n", true),
            ("", false),
            ("kwt_canary x\n", false),
            ("kwt_canary\n\n", false),
        ] {
            std::fs::write(file.path(), text).unwrap();
            match bearer(file.path()) {
                Ok(bearer) => assert!(fine && !format!("{:?}", bearer.0).contains("canary")),
                Err(Failure::Failed(error) | Failure::Usage(error)) => {
                    assert!(!fine && !error.contains("canary"), "{error}");
                }
            }
        }
    }
}

//! The connection to the service: its endpoint, its TLS trust, the caller's token, and what a failed
//! call means to the user.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_client::{Advice, BuildError, Builder, Client, Error, ErrorKind, Rpc};

use super::{Context, Failure, certificate, input};
use crate::config::{Listen, Settings};
use keyward_ops::outgoing::connect_address;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit of a call.
const TIMEOUT: Duration = Duration::from_secs(75);
/// That of a change of many keys. A million of them take minutes.
const TIMEOUT_OF_MANY: Duration = Duration::from_secs(24 * 3_600);

/// The service, as one caller reaches it.
pub(super) struct Service {
    client: Client,
    /// The file of the caller's token, or of its certificate.
    credential: PathBuf,
}

impl Service {
    /// A client with the caller's token or certificate. It connects with the first call.
    pub(super) fn new(context: &Context<'_>) -> Result<Self, Failure> {
        Self::build(context, builder(context)?)
    }

    /// Like [`Self::new`], for a change of all keys of an account or of an import.
    pub(super) fn of_many(context: &Context<'_>) -> Result<Self, Failure> {
        let limit = context.options.timeout.unwrap_or(TIMEOUT_OF_MANY);
        Self::build(context, builder(context)?.change_timeout(limit))
    }

    /// Like [`Self::new`], but repeats a call that fails for now until the time limit has passed.
    pub(super) fn persistent(context: &Context<'_>) -> Result<Self, Failure> {
        Self::build(context, builder(context)?.retries(u32::MAX))
    }

    fn build(context: &Context<'_>, builder: Builder) -> Result<Self, Failure> {
        let options = context.options;
        let token = context.path(&options.token_file, "KEYWARD_TOKEN_FILE")?;
        let certificate =
            context.path(&options.client_certificate, "KEYWARD_CLIENT_CERTIFICATE")?;
        let key = context.path(&options.client_key, "KEYWARD_CLIENT_KEY")?;
        let builder = match (&certificate, &key) {
            (Some(certificate), Some(key)) => builder.client_certificate(certificate, key),
            (None, None) => builder,
            _ => {
                return Err(Failure::Usage(
                    "--client-certificate and --client-key need each other".to_owned(),
                ));
            }
        };
        let (builder, credential) = match (token, certificate) {
            (Some(token), _) => (builder.token_file(&token), token),
            (None, Some(certificate)) => (builder, certificate),
            (None, None) => {
                let token = context.settings.data_dir.join("admin.token");
                (builder.token_file(&token), token)
            }
        };
        let client = build(builder)?;
        Ok(Self { client, credential })
    }

    pub(super) async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Failure> {
        let response = self.client.call(request).await;
        response.map_err(|error| explain(&error, &self.credential))
    }
}

/// Succeeds if the service serves. Sends no token.
pub(super) async fn check_health(context: &Context<'_>) -> Result<(), Failure> {
    let client = build(builder(context)?.without_token())?;
    let health = client.health().await;
    health.map_err(|error| explain(&error, Path::new("")))
}

/// The error, and what to do next.
fn explain(error: &Error, credential: &Path) -> Failure {
    let file = credential.display();
    let advice = match (error.kind, error.reason.as_deref()) {
        (_, Some("REVOKE_UNCONFIRMED")) => {
            "the change is committed; repeat the command until it succeeds".to_owned()
        }
        (_, Some("OUTCOME_UNKNOWN")) => {
            "repeat the command; before you repeat `token create`, check `keyward token list`"
                .to_owned()
        }
        (_, Some("INVALID_FIELD")) => return Failure::Usage(with_flag(error)),
        (_, Some("KEY_NOT_FOUND")) => {
            "check the KEY_ID, or run keyward list --account ACCOUNT_ID --all".to_owned()
        }
        (_, Some("TOKEN_NOT_FOUND")) => {
            "check the TOKEN_ID, or run keyward token list --all".to_owned()
        }
        (_, Some("CERTIFICATE_INVALID")) => {
            format!(
                "the client certificate is in {file}; create its caller with keyward token create --san"
            )
        }
        (ErrorKind::Unauthorized, _) => {
            format!("the token comes from {file}; choose another file with --token-file")
        }
        (ErrorKind::Unavailable, Some(_)) => "repeat the command; this is safe".to_owned(),
        (_, None) if error.advice == Some(Advice::Certificate) => {
            "name the CA file with --ca-file or KEYWARD_CA_FILE".to_owned()
        }
        (ErrorKind::Unavailable | ErrorKind::Internal, None) if error.advice.is_none() => {
            "check that the service is running, \
             and check the endpoint (--endpoint or KEYWARD_ENDPOINT; https:// if it uses TLS), the \
             trusted CA (--ca-file or KEYWARD_CA_FILE) and the time limit (--timeout)"
                .to_owned()
        }
        _ => return Failure::Failed(error.to_string()),
    };
    Failure::Failed(format!("{error}\n  {advice}"))
}

/// The message about a wrong field, with the flag in place of the field's name in the API. A `name` is
/// called so by flags and arguments, too.
fn with_flag(error: &Error) -> String {
    const FLAGS: [(&str, &str); 19] = [
        ("account_id", "--account"),
        ("allowed_cidrs", "--cidr"),
        ("caller", "--caller"),
        ("client_ip", "--client-ip"),
        ("end_time", "--end-time"),
        ("expire_time", "--expire-time"),
        ("grace", "--grace"),
        ("head", "--head"),
        ("metadata", "--metadata"),
        ("older_than", "--older-than"),
        ("page_size", "--page-size"),
        ("page_token", "--page-token"),
        ("reason", "--reason"),
        ("replace", "--replace"),
        ("required_scopes", "--scope"),
        ("san", "--san"),
        ("scopes", "--scope"),
        ("start_time", "--start-time"),
        ("ttl", "--ttl"),
    ];
    let message = &error.message;
    let (field, rest) = message.split_once(": ").unwrap_or_default();
    let field = field.strip_prefix("key.").unwrap_or(field);
    match FLAGS.into_iter().find(|(name, _)| *name == field) {
        Some((_, flag)) => format!("{flag}: {rest}"),
        None => error.to_string(),
    }
}

fn build(builder: Builder) -> Result<Client, Failure> {
    builder.build().map_err(|error| match &error {
        BuildError::Endpoint(..) | BuildError::Tls(..) => Failure::Usage(error.to_string()),
        BuildError::Timeout(_) => {
            Failure::Usage("--timeout must be more than 0 and at most 24h".to_owned())
        }
        BuildError::TokenFile(_, cause) if cause.kind() == IoErrorKind::NotFound => {
            Failure::Failed(format!(
                "{error}\n  the service writes its first token to admin.token in data_dir at its \
                 first start; choose another file with --token-file or KEYWARD_TOKEN_FILE"
            ))
        }
        _ => Failure::Failed(error.to_string()),
    })
}

/// A client of the service without its token. The operator chose the endpoints, so clear text is
/// allowed; the operator also decides whether to repeat a failed command, so each endpoint is tried
/// once.
fn builder(context: &Context<'_>) -> Result<Builder, Failure> {
    let options = context.options;
    let ca_file = context.path(&options.ca_file, "KEYWARD_CA_FILE")?;
    let endpoints = match (&options.endpoint, context.variable("KEYWARD_ENDPOINT")?) {
        (Some(urls), _) => Some(urls.clone()),
        (None, Some(text)) => Some(
            input::endpoints(text)
                .map_err(|reason| Failure::Usage(format!("KEYWARD_ENDPOINT {reason}")))?,
        ),
        (None, None) => None,
    };
    let limit = options.timeout.unwrap_or(TIMEOUT);
    let builder = Client::builder()
        .timeout(limit)
        .change_timeout(limit)
        .connect_timeout(CONNECT_TIMEOUT)
        .retries(0)
        .insecure(true);
    let builder = match &ca_file {
        Some(path) => builder.ca_file(path),
        None => builder,
    };
    match endpoints {
        Some(urls) => {
            let others = u32::try_from(urls.matches(',').count()).unwrap_or(u32::MAX);
            Ok(builder.endpoint(urls).retries(others))
        }
        None => local_service(builder, context.settings, ca_file.is_none()),
    }
}

/// The service that the settings of this machine describe. The author of the settings is trusted, so
/// its certificate file is too, unless a CA file is given. An address is seldom in the certificate,
/// so the certificate proves one of its own names.
fn local_service(
    builder: Builder,
    settings: &Settings,
    trust_certificate: bool,
) -> Result<Builder, Failure> {
    let listen = match &settings.listen {
        Listen::Tcp(address) => *address,
        socket @ Listen::Unix(_) => return Ok(builder.endpoint(socket.to_string())),
    };
    if listen.port() == 0 {
        return Err(Failure::Usage(
            "the setting `listen` has port 0: name the service with --endpoint".into(),
        ));
    }
    let address = connect_address(listen);
    let Some(path) = &settings.tls_cert else {
        return Ok(builder.endpoint(format!("http://{address}")));
    };
    let mut builder = builder.endpoint(format!("https://{address}"));
    if trust_certificate {
        builder = builder.ca_file(path);
    }
    let text = std::fs::read(path)
        .map_err(|error| Failure::Failed(format!("tls_cert {}: {error}", path.display())))?;
    Ok(match certificate::name_to_prove(&text, address.ip()) {
        Some(name) => builder.server_name(name),
        None => builder,
    })
}

impl Context<'_> {
    /// The environment variable, read as those of settings are: without white space at its end, and
    /// an empty one counts as unset.
    fn variable(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut variables = self.environment.iter();
        let Some((_, value)) = variables.find(|(key, _)| key == name) else {
            return Ok(None);
        };
        let text = value.to_str();
        let text = text.ok_or_else(|| Failure::Usage(format!("variable {name} is not UTF-8")))?;
        Ok(Some(text.trim_end()).filter(|text| !text.is_empty()))
    }

    /// The path of a flag, or else of an environment variable.
    fn path(&self, flag: &Option<PathBuf>, variable: &str) -> Result<Option<PathBuf>, Failure> {
        match flag {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(self.variable(variable)?.map(PathBuf::from)),
        }
    }
}

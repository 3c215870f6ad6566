//! Envoy's `Authorization/Check`: judges the API key of a request that Envoy is about to pass on. A fault in
//! Envoy's configuration is a gRPC error, so that a typing error opens no door.

use std::net::IpAddr;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use keyward_guard::credential::{self, DEFAULT_HEADERS};
use keyward_guard::{LogLimit, Refusal, TrustedProxies, Verdict};
use keyward_proto::envoy::authorization_server::Authorization;
use keyward_proto::envoy::check_response::HttpResponse;
use keyward_proto::envoy::header_value_option::HeaderAppendAction::{
    self, AppendIfExistsOrAdd, OverwriteIfExistsOrAdd,
};
use keyward_proto::envoy::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue as EnvoyHeader,
    HeaderValueOption, HttpStatus, OkHttpResponse, Status as EnvoyStatus,
};
use keyward_proto::v1;
use tonic::{Request, Response, Status};

use super::{Api, convert};
use crate::service::{ServiceError, Verify};
use keyward_core::key::Role;

/// The realm of challenges.
const REALM: &str = "api";
/// The key of the only context extension.
const SCOPE: &str = "scope";
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Answers Envoy.
#[derive(Debug, Default)]
pub(super) struct Envoy {
    proxies: TrustedProxies,
    faults: LogLimit,
}

/// What a request to Envoy asks for.
pub(super) struct Asked {
    /// The key, and what it must allow.
    pub(super) verify: Verify,
    scopes: Vec<String>,
    /// The headers that hold the key.
    keys: Vec<String>,
}

/// Why a request gets no verdict.
pub(super) enum Unasked {
    /// It holds no key that could be judged.
    Refused(Refusal),
    /// Envoy is configured wrongly.
    Misconfigured(String),
}

impl Envoy {
    /// Takes addresses from behind `proxies`.
    pub(super) fn new(proxies: TrustedProxies) -> Self {
        Self {
            proxies,
            faults: LogLimit::default(),
        }
    }

    /// What `request` asks for.
    pub(super) fn ask(&self, request: CheckRequest) -> Result<Asked, Unasked> {
        let missing = |what: &str| Unasked::Misconfigured(format!("the request has no {what}"));
        let attributes = request.attributes.ok_or_else(|| missing("attributes"))?;
        let scopes = scopes(&attributes).map_err(Unasked::Misconfigured)?;
        let peer = peer(&attributes);
        let http = attributes.request.and_then(|request| request.http);
        let http = http.ok_or_else(|| missing("HTTP request"))?;
        let raw = http.header_map.into_iter().flat_map(|map| map.headers);
        let raw = raw.map(|header| match header.raw_value.is_empty() {
            true => (header.key, header.value.into_bytes()),
            false => (header.key, header.raw_value),
        });
        let joined = http.headers.into_iter();
        let joined = joined.map(|(name, value)| (name, value.into_bytes()));
        let mut headers = relevant(joined.chain(raw));
        let sent = names(&headers);
        let api_key = credential::take(&mut headers, &DEFAULT_HEADERS).map_err(Unasked::Refused)?;
        let client_ip = self.proxies.client_ip(peer, &headers);
        let verify = v1::VerifyRequest {
            api_key: api_key.expose().to_owned(),
            required_scopes: scopes.clone(),
            client_ip: client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            consistency: 0,
            want_cache_entry: false,
        };
        let verify = convert::verify(verify);
        let verify = verify.map_err(|error| Unasked::Misconfigured(error.to_string()))?;
        let left = names(&headers);
        let keys = sent.into_iter().filter(|name| !left.contains(name));
        Ok(Asked {
            verify,
            scopes,
            keys: keys.collect(),
        })
    }

    /// The answer to a request that was judged; without a verdict it is UNAVAILABLE.
    pub(super) fn answer(
        &self,
        asked: Asked,
        verdict: Option<Verdict>,
    ) -> Result<CheckResponse, Status> {
        let judged = verdict
            .ok_or_else(|| Refusal::unavailable(None))
            .and_then(Refusal::check)
            .and_then(|identity| identity.headers().map_err(|_| Refusal::unavailable(None)));
        match judged {
            Ok(identity) => Ok(CheckResponse {
                status: Some(EnvoyStatus { code: 0 }),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: options(
                        identity.iter().map(|(name, value)| (name, value)),
                        OverwriteIfExistsOrAdd,
                    ),
                    headers_to_remove: asked.keys,
                })),
            }),
            Err(refusal) => refused(&refusal, &asked.scopes),
        }
    }

    /// The answer to a request without a key to judge.
    pub(super) fn unasked(&self, unasked: &Unasked) -> Result<CheckResponse, Status> {
        match unasked {
            Unasked::Refused(refusal) => refused(refusal, &[]),
            Unasked::Misconfigured(fault) => {
                if self.faults.is_due() {
                    tracing::error!("Envoy asks wrongly and gets UNAVAILABLE: {fault}");
                }
                Err(Refusal::unavailable(None).grpc())
            }
        }
    }
}

/// The headers that decide.
fn relevant(headers: impl Iterator<Item = (String, Vec<u8>)>) -> HeaderMap {
    let mut relevant = HeaderMap::new();
    for (name, value) in headers {
        let [a, b, c] = DEFAULT_HEADERS;
        let mut deciding = [a, b, c, FORWARDED].into_iter();
        let known = deciding.find(|known| known.as_str() == name);
        // A value that HTTP forbids is not dropped, but made unreadable: the request may hold two keys.
        let value = HeaderValue::from_bytes(&value).or_else(|_| HeaderValue::from_bytes(b"\xff"));
        if let (Some(known), Ok(value)) = (known, value) {
            relevant.append(known, value);
        }
    }
    relevant
}

fn names(headers: &HeaderMap) -> Vec<String> {
    headers.keys().map(ToString::to_string).collect()
}

/// The required scopes of a route.
fn scopes(attributes: &AttributeContext) -> Result<Vec<String>, String> {
    let extensions = &attributes.context_extensions;
    if extensions.keys().any(|name| name != SCOPE) {
        return Err("context_extensions has an entry other than scope".to_owned());
    }
    let text = extensions.get(SCOPE).map(String::as_str);
    let scopes = text.unwrap_or_default().split_ascii_whitespace();
    let scopes: Vec<String> = scopes.map(str::to_owned).collect();
    match scopes.is_empty() && text.is_some() {
        true => Err("scope in context_extensions is empty".to_owned()),
        false => Ok(scopes),
    }
}

/// The address of the client of Envoy's connection.
fn peer(attributes: &AttributeContext) -> Option<IpAddr> {
    let address = attributes.source.as_ref()?.address.as_ref()?;
    address.socket_address.as_ref()?.address.parse().ok()
}

fn refused(refusal: &Refusal, scopes: &[String]) -> Result<CheckResponse, Status> {
    let status = refusal.grpc();
    if matches!(refusal, Refusal::Unavailable { .. }) {
        return Err(status);
    }
    let mut headers = HeaderMap::new();
    let problem = HeaderValue::from_static(Refusal::PROBLEM_TYPE);
    headers.insert(CONTENT_TYPE, problem);
    refusal.add_headers(&mut headers, &DEFAULT_HEADERS, REALM, scopes);
    Ok(CheckResponse {
        status: Some(EnvoyStatus {
            code: status.code().into(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: refusal.status().as_u16().into(),
            }),
            headers: options(headers.iter(), AppendIfExistsOrAdd),
            body: refusal.problem(),
        })),
    })
}

fn options<'h>(
    headers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>,
    action: HeaderAppendAction,
) -> Vec<HeaderValueOption> {
    let option = |header: (&HeaderName, &HeaderValue)| HeaderValueOption {
        header: Some(EnvoyHeader {
            key: header.0.to_string(),
            value: String::from_utf8_lossy(header.1.as_bytes()).into_owned(),
            raw_value: Vec::new(),
        }),
        append_action: action.into(),
        // Without it Envoy drops an empty header, and what the client sent would stay.
        keep_empty_value: true,
    };
    headers.map(option).collect()
}

#[tonic::async_trait]
impl Authorization for Api {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let ask = |request| Ok::<_, ServiceError>(self.envoy.ask(request));
        let (_, asked) = self.authorize_read(request, Role::Verifier, ask).await?;
        let answer = match asked {
            Ok(asked) => {
                let verified = self.service.verify(&asked.verify).await?;
                let verdict = Verdict::try_from(convert::verified(&verified, false));
                self.envoy.answer(asked, verdict.ok())
            }
            Err(unasked) => self.envoy.unasked(&unasked),
        };
        answer.map(Response::new)
    }
}

//! `/auth`: says to a proxy whether it may pass on a request, judged by the key in the request's headers.
//! It answers 200, 401, 403 or 503, which all proxies understand. A fault in the proxy's
//! configuration is 503, so that a typing error opens no door.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use keyward_guard::credential::{self, DEFAULT_HEADERS};
use keyward_guard::{Refusal, Secret, Verdict};
use keyward_proto::v1;
use prost::Message as _;
use tonic::{Code, Status};
use url::form_urlencoded;

use super::Rest;
use crate::grpc::{Services, VERIFY};

/// The proxy's own token.
const TOKEN: HeaderName = HeaderName::from_static("x-keyward-token");
/// The realm of challenges.
const REALM: &str = "api";

impl Rest {
    /// The answer to a proxy.
    pub(super) async fn authorize(&self, mut parts: Parts, services: &Services) -> Response<Bytes> {
        let scopes = scopes(parts.uri.query());
        let required = scopes.as_deref().unwrap_or_default();
        let judged = match &scopes {
            Ok(scopes) => {
                self.judge(&mut parts.headers, scopes.clone(), services)
                    .await
            }
            Err(fault) => Err(self.misconfigured(fault)),
        };
        let mut response = Response::new(Bytes::new());
        match judged {
            Ok(headers) => response.headers_mut().extend(headers),
            Err(refusal) => {
                *response.status_mut() = refusal.status();
                *response.body_mut() = refusal.problem().into();
                let headers = response.headers_mut();
                let problem = HeaderValue::from_static(Refusal::PROBLEM_TYPE);
                headers.insert(CONTENT_TYPE, problem);
                refusal.add_headers(headers, &DEFAULT_HEADERS, REALM, required);
            }
        }
        response
    }

    async fn judge(
        &self,
        headers: &mut HeaderMap,
        required_scopes: Vec<String>,
        services: &Services,
    ) -> Result<[(HeaderName, HeaderValue); 5], Refusal> {
        let may_be_missing = self.allows_no_token || services.has_certificate();
        let token = token(headers, may_be_missing);
        let token = token.map_err(|fault| self.misconfigured(fault))?;
        let api_key = match credential::take(headers, &DEFAULT_HEADERS) {
            Err(refusal) if !services.is_stranger() => return Err(refusal),
            found => found,
        };
        let client_ip = self.proxies.client_ip_from_proxy(headers);
        let verify = v1::VerifyRequest {
            // Without a key, the call authenticates the proxy: its connection is then no stranger's any more.
            api_key: api_key.as_ref().map_or("", Secret::expose).to_owned(),
            required_scopes,
            client_ip: client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            consistency: 0,
            want_cache_entry: false,
        };
        let mut metadata = HeaderMap::new();
        metadata.extend(token.map(|token| (AUTHORIZATION, token)));
        let message = async move { Ok(verify.encode_to_vec()) };
        let answered = services
            .call(&Uri::from_static(VERIFY), metadata, message)
            .await;
        let answer = answered.map_err(|status| self.unanswered(&status))?;
        api_key?;
        let verdict = v1::VerifyResponse::decode(answer).ok();
        let verdict = verdict.and_then(|response| Verdict::try_from(response).ok());
        let identity = Refusal::check(verdict.ok_or_else(|| Refusal::unavailable(None))?)?;
        identity.headers().map_err(|_| Refusal::unavailable(None))
    }

    /// Logs a fault of the proxy's configuration, but not each of many.
    fn misconfigured(&self, fault: &str) -> Refusal {
        if self.faults.is_due() {
            tracing::error!("a proxy asks wrongly at /auth and gets 503: {fault}");
        }
        Refusal::unavailable(None)
    }

    /// A call without a verdict. A proxy's fault is logged; the others pass by themselves.
    fn unanswered(&self, status: &Status) -> Refusal {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
                Refusal::unavailable(None)
            }
            _ => self.misconfigured(status.message()),
        }
    }
}

/// The metadata `authorization` of the proxy; `None` if its certificate or its socket says who it is.
fn token(headers: &HeaderMap, may_be_missing: bool) -> Result<Option<HeaderValue>, &'static str> {
    let mut tokens = headers.get_all(TOKEN).iter();
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => {
            let bearer = [b"Bearer ", token.as_bytes()].concat();
            let bearer = HeaderValue::from_bytes(&bearer);
            bearer
                .map(Some)
                .map_err(|_| "x-keyward-token is not a token")
        }
        (None, _) if may_be_missing => Ok(None),
        (None, _) => Err("x-keyward-token is missing; it holds the proxy's own token"),
        (Some(_), Some(_)) => Err("x-keyward-token is there twice; delete what the client sent"),
    }
}

/// The required scopes of the query. Any other parameter is a typing error of the proxy's
/// configuration.
fn scopes(query: Option<&str>) -> Result<Vec<String>, String> {
    let query = query.unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let scopes = pairs.map(|(name, value)| match &*name {
        "scope" if value.is_empty() => Err("the parameter scope is empty".to_owned()),
        "scope" => Ok(value.into_owned()),
        _ => Err("the query has a parameter other than scope".to_owned()),
    });
    let scopes = scopes.collect::<Result<Vec<_>, _>>()?;
    // A query without a scope, such as `&`, is a typing error.
    match scopes.is_empty() && !query.is_empty() {
        true => Err("the query names no scope".to_owned()),
        false => Ok(scopes),
    }
}

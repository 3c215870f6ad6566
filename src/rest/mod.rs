//! The JSON port: every unary RPC as JSON, its OpenAPI document, and `/auth` for proxies. It only
//! translates. Each request becomes a call of the gRPC services in this process, so the same rules
//! authenticate, limit and answer it.

mod auth;
mod failure;
mod json;
mod routes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use keyward_core::key::Entropy;
use keyward_guard::{LogLimit, TrustedProxies};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::grpc::{self, Http, RequestBody, Services};
use failure::Failure;
use routes::{Found, Routes};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The content type of answers.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The metadata of gRPC that a request may bring as headers.
const METADATA: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Answers the requests of the JSON port.
pub struct Rest {
    routes: Routes,
    proxies: TrustedProxies,
    cors: Option<CorsLayer>,
    faults: LogLimit,
    /// Whether a proxy may ask `/auth` without a token.
    allows_no_token: bool,
    /// Names this process in the ids of requests, which it numbers.
    process: u64,
    requests: AtomicU64,
}

impl Rest {
    /// Serves the routes of the proto files. Addresses are taken from behind `proxies`. Pages of
    /// `origins` may read the answers.
    ///
    /// # Errors
    ///
    /// The proto files name a route that this module cannot serve.
    pub fn new(
        proxies: TrustedProxies,
        origins: &[HeaderValue],
        entropy: &dyn Entropy,
    ) -> Result<Self, routes::WrongRoute> {
        let cors = (!origins.is_empty()).then(|| {
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(origins.iter().cloned()))
                .allow_methods([Method::GET, Method::POST, Method::PATCH])
                .allow_headers(
                    [CONTENT_TYPE, REQUEST_ID]
                        .into_iter()
                        .chain(METADATA)
                        .collect::<Vec<_>>(),
                )
                .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE, REQUEST_ID])
        });
        let mut process = [0; 8];
        entropy.fill(&mut process);
        Ok(Self {
            routes: Routes::new()?,
            proxies,
            cors,
            faults: LogLimit::default(),
            allows_no_token: false,
            process: u64::from_be_bytes(process),
            requests: AtomicU64::new(0),
        })
    }

    /// Lets a proxy ask `/auth` without a token: the permissions of a socket say who it is.
    pub fn without_token(self) -> Self {
        Self {
            allows_no_token: true,
            ..self
        }
    }

    async fn answer(
        &self,
        parts: Parts,
        body: RequestBody,
        services: &Services,
    ) -> Response<Bytes> {
        let path = parts.uri.path();
        let found = match path {
            _ if !has_host(&parts) => {
                Err(grpc::undecodable("HTTP/1.1 takes one header host").into())
            }
            "/openapi.json" => self.document(&parts.method),
            _ => match self.routes.find(&parts.method, path) {
                Found::Route(route, variable) => {
                    let metadata = metadata(&parts.headers);
                    route.call(&parts, variable, body, metadata, services).await
                }
                Found::OtherMethods(allowed) => Err(Failure::wrong_method(allowed)),
                Found::Nothing => Err(Failure::no_route(path)),
            },
        };
        found
            .map(|json| {
                let mut response = Response::new(json);
                response.headers_mut().insert(CONTENT_TYPE, JSON);
                response
            })
            .unwrap_or_else(|failure| failure.response(self.routes.status()))
    }

    /// The client's own id of the request, as the audit takes it, otherwise a new one.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let own = headers.get(&REQUEST_ID);
        let own = own.filter(|id| grpc::is_request_id(id.as_bytes()));
        own.cloned().unwrap_or_else(|| {
            let number = self.requests.fetch_add(1, Relaxed);
            HeaderValue::try_from(format!("{:016x}-{number}", self.process))
                .unwrap_or(HeaderValue::from_static(""))
        })
    }

    fn document(&self, method: &Method) -> Result<Bytes, Failure> {
        match *method {
            Method::GET | Method::HEAD => Ok(Bytes::from_static(keyward_proto::OPENAPI.as_bytes())),
            _ => Err(Failure::wrong_method("GET, HEAD".to_owned())),
        }
    }
}

impl Http for Rest {
    fn respond(
        self: Arc<Self>,
        mut request: Request<RequestBody>,
        services: Services,
    ) -> BoxFuture<'static, Response<Bytes>> {
        Box::pin(async move {
            let id = self.request_id(request.headers());
            request.headers_mut().insert(REQUEST_ID, id.clone());
            let answer = service_fn(async |request: Request<RequestBody>| {
                let (parts, body) = request.into_parts();
                Ok(self.answer(parts, body, &services).await)
            });
            let answered: Result<_, std::convert::Infallible> = match &self.cors {
                // Not for pages: the layer would answer every OPTIONS with 200, which lets a request
                // through.
                _ if request.uri().path() == "/auth" => {
                    Ok(self.authorize(request.into_parts().0, &services).await)
                }
                Some(cors) => cors.layer(answer).oneshot(request).await,
                None => answer.oneshot(request).await,
            };
            let mut response = answered.unwrap_or_else(|never| match never {});
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(REQUEST_ID, id);
            response
        })
    }
}

/// Whether a request has one header `host`, which RFC 9112 (3.2) demands of HTTP/1.1.
fn has_host(parts: &Parts) -> bool {
    parts.version != Version::HTTP_11 || parts.headers.get_all(HOST).iter().count() == 1
}

/// The headers of a request that its call takes as metadata, with those that tell from where it comes.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for name in METADATA.into_iter().chain([REQUEST_ID, FORWARDED]) {
        for value in headers.get_all(&name) {
            metadata.append(&name, value.clone());
        }
    }
    metadata
}

//! A tower layer that accepts a request only with a valid API key: for axum, tonic, and any other
//! service of http requests.
//!
//! ```
//! # use axum::{Router, routing::post};
//! # use keyward_client::{Client, layer::RequireApiKey};
//! # async fn order() {}
//! # fn app(client: Client) -> Router {
//! Router::new()
//!     .route("/v1/orders", post(order))
//!     .layer(RequireApiKey::new(client).scopes(["orders:write"]))
//! # }
//! ```
//!
//! **The key** comes from `apikey`, `x-api-key`, `authorization: ApiKey` or `authorization: Bearer`,
//! unless you choose other headers ([`RequireApiKey::headers`]). A request with two different keys is
//! refused, because the layer cannot know which one is meant. The layer removes the key from the
//! request, so that neither handlers nor their logs see it, and adds an
//! [`Identity`](crate::Identity) to the request's extensions.
//!
//! **The refusals**, with a body that you can replace ([`RequireApiKey::body`]):
//!
//! | status | when | headers |
//! |---|---|---|
//! | 401 | no key, two different keys, or an unreadable, unknown, revoked, expired or disabled key | `WWW-Authenticate` |
//! | 403 | the key lacks a scope, or may not be used from this address | `WWW-Authenticate` for a scope |
//! | 503 | Keyward gave no verdict, for any reason | `Retry-After` |
//!
//! With [`RequireApiKey::grpc`], for tonic, they are UNAUTHENTICATED, PERMISSION_DENIED and
//! UNAVAILABLE.
//!
//! **It fails closed:** only the verdict VALID lets a request through. A failed call never counts as a
//! bad key.
//!
//! **The client's address** is that of the peer by default: see [`ClientIp`].
//!
//! **The verdict is taken when the request's headers arrive.** A request with a slow body, or an endless
//! stream, may act long after its key is revoked. Limit that time, or read the body first, in a layer
//! outside this one, as `examples/rest_api.rs` does.
//!
//! **Add the layer once:** it removes the key, so a second layer finds none. With
//! `Router::route_layer`, unknown paths stay 404 for everybody.
//!
//! **Preflight requests** of browsers carry no key, so the layer refuses them. Put a CORS layer outside
//! this one, or let them through ([`RequireApiKey::allow_preflight`]).

mod address;
mod body;
mod service;

pub use address::{ClientIp, FindIp};
pub use body::{Envelope, Problem, RefusalBody, Rendered};
pub use keyward_guard::{InvalidNetwork, Refusal, TrustedProxies};
pub use service::{Guarded, RequireApiKey, ResponseBody, ResponseFuture, Verifier};

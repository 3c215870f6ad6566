//! A tower layer that lets a request through only with a valid API key: for axum, tonic, and
//! whatever else is a service of http requests.
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
//! **The key** is taken from `apikey`, `x-api-key` or `authorization: Bearer`. A request with two
//! different keys is refused: which of them was meant is not for this layer to guess. The key is
//! taken off the request, so that neither handlers nor their logs see it; in its place an
//! [`Identity`](crate::Identity) is in the request's extensions.
//!
//! **The answers**, with a body that can be replaced ([`RequireApiKey::body`]):
//!
//! | status | when | headers |
//! |---|---|---|
//! | 400 | two different keys, or one that is not text | |
//! | 401 | no key, or one that is unknown, revoked, expired or disabled | `WWW-Authenticate` |
//! | 403 | the key lives, but lacks a scope or may not be used from this address | `WWW-Authenticate` for a scope |
//! | 503 | Keyward could not say, for whatever reason | `Retry-After` |
//!
//! With [`RequireApiKey::grpc`], for tonic, they are INVALID_ARGUMENT, UNAUTHENTICATED,
//! PERMISSION_DENIED and UNAVAILABLE.
//!
//! **Fails closed:** nothing passes without a verdict that says VALID, and no fault of Keyward's is
//! taken for a bad key.
//!
//! **The client's address** is that of the peer unless told otherwise: see [`ClientIp`].
//!
//! **A request is judged when its head has come.** One that withholds its body, or a stream without
//! an end, acts later, maybe on a key that was revoked since: bound how long that may take, or read
//! the body first, in a layer outside of this one, as `examples/rest_api.rs` does.
//!
//! **Where to put it.** Once: it takes the key off, so a second one further in finds none. Preflight
//! requests of browsers carry no key: a CORS layer belongs outside this one. With `Router::route_layer` paths that do not exist stay 404 for everybody.

mod address;
mod body;
mod credential;
mod refusal;
mod service;

pub use address::{ClientIp, FindIp};
pub use body::{Envelope, Problem, RefusalBody, Rendered};
pub use refusal::Refusal;
pub use service::{Guarded, RequireApiKey, ResponseBody, ResponseFuture};

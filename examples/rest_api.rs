//! A small order API whose callers show an API key, which Keyward judges on every request.
//!
//! ```text
//! cargo run --example rest_api -- --keyward http://127.0.0.1:50051 --token-file verifier.token
//! curl -H "apikey: kw_..." -H 'content-type: application/json' \
//!     -d '{"item":"energy","amount":3}' http://127.0.0.1:8080/v1/orders
//! ```
//!
//! Its token needs the role `verifier` alone:
//! `keyward token create api --role verifier --into verifier.token`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use clap::Parser;
use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use keyward_client::layer::{Envelope, RequireApiKey};
use keyward_client::{Client, Identity};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// So many orders are kept, of all accounts together: the memory has a bound.
const KEPT: usize = 10_000;
/// An order has so many bytes at most, and takes no longer to come.
const MAX_BODY: usize = 4096;
const READING: Duration = Duration::from_secs(5);
/// How often the limiter forgets the keys that have rested.
const FORGET: Duration = Duration::from_secs(60);

/// A small order API behind Keyward.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// An instance of Keyward; give it once for each.
    #[arg(long, value_name = "URL", required = true)]
    keyward: Vec<String>,
    /// The file with this API's own token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The authorities to trust, as PEM; the system's unless given.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How many requests a second one key may make.
    #[arg(long, default_value = "15")]
    rate: NonZeroU32,
    /// A scope that keys must hold; give it once for each.
    #[arg(long)]
    scope: Vec<String>,
}

/// What a caller wants.
#[derive(Clone, Deserialize, Serialize)]
struct Wish {
    item: String,
    amount: u32,
}

/// What a caller has.
#[derive(Clone, Serialize)]
struct Order {
    id: u64,
    #[serde(skip)]
    account_id: String,
    #[serde(flatten)]
    wish: Wish,
}

#[derive(Default)]
struct Orders {
    made: u64,
    kept: VecDeque<Order>,
}

type Shop = Arc<Mutex<Orders>>;
type Limits = Arc<DefaultKeyedRateLimiter<String>>;

fn app(client: Client, options: &Options, limits: Limits) -> Router {
    Router::new()
        .route("/v1/orders", post(order).get(orders))
        .with_state(Shop::default())
        .layer(from_fn_with_state(limits, limit_rate))
        // These lines let nobody in without a good key, and say who came in.
        .layer(
            RequireApiKey::new(client)
                .scopes(options.scope.clone())
                .body(Envelope::default()),
        )
        .layer(from_fn(read_first))
        // What is added after the layer is open to everybody.
        .route("/healthz", get(async || "ok\n"))
}

async fn order(
    State(shop): State<Shop>,
    Extension(who): Extension<Identity>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Response {
    let wish = match wish {
        Ok(Json(wish)) => wish,
        Err(rejection) => return refuse(rejection.status(), "INVALID_ORDER"),
    };
    let mut orders = shop.lock();
    orders.made += 1;
    let order = Order {
        id: orders.made,
        account_id: who.account_id,
        wish,
    };
    orders.kept.push_back(order.clone());
    if orders.kept.len() > KEPT {
        orders.kept.pop_front();
    }
    (StatusCode::CREATED, Json(order)).into_response()
}

/// Reads the body before the key is judged, and not for long: else a request could be let in, and
/// withhold its order until long after its key is dead.
async fn read_first(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(READING, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => refuse(StatusCode::PAYLOAD_TOO_LARGE, "INVALID_ORDER"),
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
    }
}

/// The caller's own orders: whose they are comes from the key alone.
async fn orders(State(shop): State<Shop>, Extension(who): Extension<Identity>) -> Json<Vec<Order>> {
    let orders = shop.lock();
    let own = orders.kept.iter();
    Json(
        own.filter(|order| order.account_id == who.account_id)
            .cloned()
            .collect(),
    )
}

/// Runs behind the layer, so only keys that are good are counted: nobody can fill its memory, nor
/// use up the share of another.
async fn limit_rate(
    State(limits): State<Limits>,
    Extension(who): Extension<Identity>,
    request: Request,
    next: Next,
) -> Response {
    let Err(until) = limits.check_key(&who.key_id) else {
        return next.run(request).await;
    };
    let wait = until.wait_time_from(limits.clock().now());
    let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED");
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// Other errors look like those of the layer.
fn refuse(status: StatusCode, message: &str) -> Response {
    let kind = [(CONTENT_TYPE, "application/json")];
    (status, kind, Envelope::wrap(message)).into_response()
}

#[expect(
    clippy::print_stderr,
    reason = "it says where it is, for people and scripts"
)]
async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Client::builder()
        .endpoints(options.keyward.clone())
        .token_file(&options.token_file);
    if let Some(ca) = &options.ca {
        builder = builder.ca_file(ca);
    }
    let limits: Limits = Arc::new(RateLimiter::keyed(Quota::per_second(options.rate)));
    let app = app(builder.build()?, &options, Arc::clone(&limits));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FORGET).await;
            limits.retain_recent();
            limits.shrink_to_fit();
        }
    });
    let mut stop = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(options.listen).await?;
    eprintln!("rest_api is ready: http://{}", listener.local_addr()?);
    // Keys that may be used only from certain addresses need the peer's.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { stop.recv().await.unwrap_or_default() })
        .await?;
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "why it ends")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn")
        .init();
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rest_api: {error}");
            ExitCode::FAILURE
        }
    }
}

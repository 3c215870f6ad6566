//! The order API of a product that sells energy for an account's balance. Every request carries an API
//! key, which Keyward verifies; the key decides whose balance is spent. The product's published SDK
//! works against it.
//!
//! ```text
//! cargo run --example rest_api -- --keyward http://127.0.0.1:50051 --token-file verifier.token
//! curl -H "apikey: kw_..." -H 'content-type: application/json' \
//!     -d '{"receiver":"TReceiver","resourceAmount":65000}' http://127.0.0.1:8080/v2/buy-resource
//! ```
//!
//! Its token needs only the role `verifier`:
//! `keyward token create api --role verifier --into verifier.token`.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use clap::Parser;
use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use keyward_client::layer::{Envelope, RequireApiKey, Verifier};
use keyward_client::near::{NearCacheOptions, NearCacheStats};
use keyward_client::{Client, Identity};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What each account can spend at first, in sun. A unit of energy costs [`PRICE`].
const START_BALANCE: u64 = 10_000_000_000;
const PRICE: u64 = 60;
/// The number of orders that are kept, for all accounts together, to limit the memory.
const MAX_ORDERS: usize = 10_000;
/// The largest body of a request, in bytes.
const MAX_BODY: usize = 4096;
/// The longest time to read a body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval at which the limiter forgets idle keys.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// A small order API behind Keyward.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// URL of an instance of Keyward, or several, separated by commas.
    #[arg(long, value_name = "URL", required = true)]
    keyward: Vec<String>,
    /// File with this API's own token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// PEM file with the authorities to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Requests per second for each key.
    #[arg(long, default_value = "15")]
    rate: NonZeroU32,
    /// Verify known keys in this process; the token also needs the role `near_cache`.
    #[arg(long)]
    near_cache: bool,
    /// A scope that keys must have; repeat for more.
    #[arg(long)]
    scope: Vec<String>,
}

/// The body of a new order.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    receiver: String,
    resource_amount: u64,
    #[serde(default = "energy")]
    resource_type: String,
    #[serde(default = "three_days")]
    duration_sec: u64,
}

fn energy() -> String {
    "ENERGY".to_owned()
}

fn three_days() -> u64 {
    259_200
}

/// An order, as the API shows it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    id: String,
    /// The account.
    requester: String,
    receiver: String,
    resource_amount: u64,
    resource_type: String,
    remain_amount: u64,
    price: u64,
    duration_sec: u64,
    order_type: &'static str,
    allow_partial_fill: bool,
    payout_amount: u64,
    fulfilled_percent: u8,
    delegates: [(); 0],
}

/// A part of the orders.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    page: usize,
    page_size: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            page: 0,
            page_size: 10,
        }
    }
}

#[derive(Default)]
struct Orders {
    last_id: u64,
    list: VecDeque<Order>,
    /// What each account has spent.
    spent: HashMap<String, u64>,
}

impl Orders {
    fn balance(&self, account: &str) -> u64 {
        START_BALANCE - self.spent.get(account).copied().unwrap_or_default()
    }

    fn of<'o>(&'o self, account: &'o str) -> impl DoubleEndedIterator<Item = &'o Order> {
        let orders = self.list.iter();
        orders.filter(move |order| order.requester == account)
    }
}

type SharedOrders = Arc<Mutex<Orders>>;
type Limits = Arc<DefaultKeyedRateLimiter<String>>;

fn app(verifier: impl Into<Verifier>, options: &Options, limits: Limits) -> Router {
    Router::new()
        .route("/v2/user-info", get(user_info))
        .route("/v2/orders", get(orders))
        .route("/v2/order/{id}", get(order))
        .route("/v2/buy-resource", post(buy))
        .with_state(SharedOrders::default())
        .layer(from_fn_with_state(limits, limit_rate))
        // These lines refuse requests without a valid key, and add the identity of the caller.
        .layer(
            RequireApiKey::new(verifier)
                .scopes(options.scope.clone())
                .body(Envelope::default()),
        )
        .layer(from_fn(read_first))
        // Routes that are added after the layer need no key.
        .route("/healthz", get(async || "ok\n"))
}

async fn buy(
    State(orders): State<SharedOrders>,
    Extension(identity): Extension<Identity>,
    body: Result<Json<NewOrder>, JsonRejection>,
) -> Response {
    let Ok(Json(new)) = body else {
        return refuse(StatusCode::BAD_REQUEST, "INVALID_PARAMS");
    };
    let cost = new.resource_amount.checked_mul(PRICE);
    let Some(cost) = cost.filter(|cost| *cost > 0 && !new.receiver.is_empty()) else {
        return refuse(StatusCode::BAD_REQUEST, "INVALID_PARAMS");
    };
    let account = &identity.account_id;
    let mut orders = orders.lock();
    if cost > orders.balance(account) {
        return refuse(StatusCode::BAD_REQUEST, "INTERNAL_BALANCE_ACCOUNT_TOO_LOW");
    }
    *orders.spent.entry(account.clone()).or_default() += cost;
    orders.last_id += 1;
    let order = Order {
        id: format!("{:024x}", orders.last_id),
        requester: account.clone(),
        receiver: new.receiver,
        resource_amount: new.resource_amount,
        resource_type: new.resource_type,
        remain_amount: new.resource_amount,
        price: PRICE,
        duration_sec: new.duration_sec,
        order_type: "NORMAL",
        allow_partial_fill: true,
        payout_amount: cost,
        fulfilled_percent: 0,
        delegates: [],
    };
    let id = order.id.clone();
    orders.list.push_back(order);
    if orders.list.len() > MAX_ORDERS {
        orders.list.pop_front();
    }
    succeed(&serde_json::json!({ "orderId": id }))
}

/// Reads the body before the key is verified, within a time limit. Otherwise a request could pass and
/// hold back its order until long after its key is dead.
async fn read_first(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(READ_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => refuse(StatusCode::PAYLOAD_TOO_LARGE, "INVALID_PARAMS"),
        Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
    }
}

/// The caller's own account. Only the key decides which one that is.
async fn user_info(
    State(orders): State<SharedOrders>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let balance = orders.lock().balance(&identity.account_id);
    succeed(&serde_json::json!({
        "id": identity.account_id,
        "balance": balance.to_string(),
        "representAddress": format!("TRepresent{}", identity.account_id),
        "depositAddress": format!("TDeposit{}", identity.account_id),
    }))
}

/// The caller's own orders, the latest first.
async fn orders(
    State(orders): State<SharedOrders>,
    Extension(identity): Extension<Identity>,
    Query(page): Query<Page>,
) -> Response {
    let orders = orders.lock();
    let own = || orders.of(&identity.account_id);
    let size = page.page_size.min(100);
    let skipped = page.page.saturating_mul(size);
    let page: Vec<&Order> = own().rev().skip(skipped).take(size).collect();
    succeed(&serde_json::json!({ "data": page, "total": own().count() }))
}

/// One of the caller's own orders. That of another account does not exist.
async fn order(
    State(orders): State<SharedOrders>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let orders = orders.lock();
    match orders.of(&identity.account_id).find(|order| order.id == id) {
        Some(order) => succeed(order),
        None => refuse(StatusCode::NOT_FOUND, "ORDER_NOT_FOUND"),
    }
}

/// Runs behind the layer, so it counts only valid keys: nobody can fill its memory or use up the limit
/// of another key.
async fn limit_rate(
    State(limits): State<Limits>,
    Extension(identity): Extension<Identity>,
    request: Request,
    next: Next,
) -> Response {
    let Err(until) = limits.check_key(&identity.key_id) else {
        return next.run(request).await;
    };
    let wait = until.wait_time_from(limits.clock().now());
    let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT");
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// How the near-cache does, for operators.
fn near_cache(stats: &NearCacheStats) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "keys": stats.keys,
        "hits": stats.hits,
        "misses": stats.misses,
        "not_fresh": stats.not_fresh,
        "fresh_for_seconds": stats.fresh_for.map(|left| left.as_secs_f64()),
    }))
}

/// A success in the product's envelope.
fn succeed(data: &impl Serialize) -> Response {
    Json(serde_json::json!({ "error": false, "message": "Success", "data": data })).into_response()
}

/// A response in the format of the layer's refusals.
fn refuse(status: StatusCode, message: &str) -> Response {
    let kind = [(CONTENT_TYPE, "application/json")];
    (status, kind, Envelope::wrap(message)).into_response()
}

#[expect(clippy::print_stderr, reason = "people and scripts read the address")]
async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Client::builder()
        .endpoints(options.keyward.clone())
        .token_file(&options.token_file);
    if let Some(ca) = &options.ca {
        builder = builder.ca_file(ca);
    }
    let limits: Limits = Arc::new(RateLimiter::keyed(Quota::per_second(options.rate)));
    let client = builder.build()?;
    let near = match options.near_cache {
        true => Some(client.near_cache(NearCacheOptions::default())?),
        false => None,
    };
    let verifier = near.clone().map_or(client.into(), Verifier::from);
    let mut app = app(verifier, &options, Arc::clone(&limits));
    if let Some(near) = near.clone() {
        app = app.route("/near-cache", get(async move || near_cache(&near.stats())));
    }
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(CLEANUP_INTERVAL).await;
            limits.retain_recent();
            limits.shrink_to_fit();
        }
    });
    let mut stop = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(options.listen).await?;
    eprintln!("rest_api is ready: http://{}", listener.local_addr()?);
    // Keys that are limited to certain addresses need the address of the peer.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { stop.recv().await.unwrap_or_default() })
        .await?;
    if let Some(near) = near {
        // So that no Revoke has to wait for this process.
        near.close().await;
    }
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "the user reads the error")]
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

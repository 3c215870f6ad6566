//! The promise for callers: once RevokeToken has returned, no door of any instance accepts a call with that token or
//! client certificate, and no near-cache of the caller answers, also over connections that know the caller.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use keyward_client::near::{Fallback, NearCache, NearCacheOptions};
use keyward_client::{Secret, Verdict as Answered, VerifyRequest};
use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::requests::{checking, creating_token, revoking_token, verifying};
use keyward_testkit::{
    Client, Cluster, Identity, Options, PATIENCE, Web, connect_tls_as, eventually, now,
};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::door::{DOORS, Door};
use crate::secure::Secure;
use crate::{BINARY, rounds};

/// The callers at a time: every second one has a certificate, the others a token.
const LANES: usize = 4;
/// The callers of a lane, one after the other.
const CALLERS: usize = 30;
const PAUSE: Duration = Duration::from_millis(5);
/// The calls that each witness makes after its caller is revoked.
const CALLS_AFTER: usize = 5;
/// The accepted calls of each witness before that.
const CALLS_BEFORE: usize = 3;

/// What witnesses have seen.
#[derive(Debug, Default)]
struct Seen {
    callers: AtomicUsize,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

/// Two instances with TLS that trust the certificates of an authority, and an active key.
struct World {
    place: Secure,
    cluster: Cluster,
    admins: Vec<Client>,
    key: String,
    seen: Seen,
}

impl World {
    async fn start() -> Self {
        let place = Secure::new(&["127.0.0.1"]);
        let path = |name| place.path(name).display().to_string();
        let variables = vec![
            ("KEYWARD_TLS_CERT", path("server.crt")),
            ("KEYWARD_TLS_KEY", path("server.key")),
            ("KEYWARD_TLS_CLIENT_CA", path("ca.crt")),
        ];
        let options = Options {
            variables,
            ..Options::default()
        };
        let cluster = Cluster::start(BINARY, 2, options);
        let mut admins = Vec::new();
        for number in cluster.running() {
            let channel = connect(&cluster, number, &place, None).await;
            admins.push(Client::over(channel, Some(cluster.token())));
        }
        let (_, key) = admins[0].issue("42", "").await.unwrap();
        Self {
            place,
            cluster,
            admins,
            key,
            seen: Seen::default(),
        }
    }

    /// Has callers come and go.
    async fn run(&self, lane: &Lane) {
        for number in 0..rounds(1) * CALLERS {
            let request = v1::CreateTokenRequest {
                san: lane.san.clone().unwrap_or_default(),
                ..creating_token(&lane.name, &[Role::Verifier, Role::NearCache])
            };
            let made = self.admins[number % 2].send(request).await.unwrap();
            let token = Some(made.token).filter(|token| !token.is_empty());
            let witnesses = lane.witnesses(self, token).await;
            let heard = Arc::new(AtomicUsize::new(0));
            let (returned, awaited) = tokio::sync::watch::channel(None);
            let count = witnesses.len();
            let mut asking = JoinSet::new();
            for witness in witnesses {
                let (heard, awaited) = (Arc::clone(&heard), awaited.clone());
                asking.spawn(async move { witness.ask_on(&heard, &awaited).await });
            }
            let all_are_accepted = async || heard.load(Relaxed) == count;
            eventually("the caller is accepted", PATIENCE, all_are_accepted).await;
            let id = made.caller_token.unwrap().token_id;
            let revoker = &self.admins[number / 2 % 2];
            revoker.send(revoking_token(&id)).await.unwrap();
            let end = now();
            returned.send(Some(end)).unwrap();
            for (name, accepted) in asking.join_all().await {
                let late = accepted.iter().filter(|start| **start >= end).count();
                assert_eq!(late, 0, "{name} accepted a revoked caller");
                self.seen.accepted.fetch_add(accepted.len(), Relaxed);
            }
            self.seen.refused.fetch_add(count * CALLS_AFTER, Relaxed);
            self.seen.callers.fetch_add(1, Relaxed);
        }
    }
}

async fn connect(
    cluster: &Cluster,
    number: usize,
    place: &Secure,
    own: Option<&Identity>,
) -> Channel {
    let channel = connect_tls_as(cluster.grpc(number), place.authority.pem(), own).await;
    channel.unwrap()
}

/// Callers of one kind, and the connections that they use one after the other.
struct Lane {
    name: String,
    /// What the certificate names; `None` for callers with a token.
    san: Option<String>,
    connections: Vec<Arc<Connections>>,
}

/// The connections to one instance.
struct Connections {
    grpc: Channel,
    json: Web,
    auth: Web,
}

impl Lane {
    async fn new(world: &World, number: usize) -> Self {
        let name = format!("lane-{number}");
        let san = number
            .is_multiple_of(2)
            .then(|| format!("spiffe://corp/{name}"));
        let authority = &world.place.authority;
        let own = san.as_ref().map(|san| authority.sign_client(&[san], None));
        if let Some(own) = &own {
            own.write_as(world.place.directory(), &name);
        }
        let mut connections = Vec::new();
        for number in world.cluster.running() {
            let rest = world.cluster.instance(number).rest.unwrap();
            let web = || Web::secure(rest, authority.pem(), own.as_ref());
            connections.push(Arc::new(Connections {
                grpc: connect(&world.cluster, number, &world.place, own.as_ref()).await,
                json: web(),
                auth: web(),
            }));
        }
        Self {
            name,
            san,
            connections,
        }
    }

    /// The witnesses of a caller with this token, or with the lane's certificate.
    async fn witnesses(&self, world: &World, token: Option<String>) -> Vec<Witness> {
        let mut witnesses = Vec::new();
        for (number, connections) in self.connections.iter().enumerate() {
            let near = self.near_cache(world, number, token.clone());
            let doors = DOORS.map(|door| Way::Door(Arc::clone(connections), door, token.clone()));
            let ways = doors.into_iter().chain([Way::Near(near)]);
            witnesses.extend(ways.map(|way| Witness {
                number,
                way,
                key: world.key.clone(),
            }));
        }
        witnesses
    }

    /// A near-cache that never calls.
    fn near_cache(&self, world: &World, number: usize, token: Option<String>) -> NearCache {
        let place: &Path = world.place.directory();
        let client = keyward_client::Client::builder()
            .endpoint(format!("https://{}", world.cluster.grpc(number)))
            .ca_file(world.place.path("ca.crt"));
        let client = match token {
            Some(token) => client.token(Secret::new(token)),
            None => {
                let file = |ending| place.join(format!("{}.{ending}", self.name));
                client.client_certificate(file("crt"), file("key"))
            }
        };
        let mut options = NearCacheOptions::default();
        options.fallback = Fallback::Fail;
        client.build().unwrap().near_cache(options).unwrap()
    }
}

/// How a witness learns whether a caller is accepted.
enum Way {
    Door(Arc<Connections>, Door, Option<String>),
    Near(NearCache),
}

/// Asks one instance in one way.
struct Witness {
    number: usize,
    way: Way,
    key: String,
}

impl Witness {
    /// Asks until the caller is revoked, and some times after that. Returns when the accepted calls began.
    async fn ask_on(
        self,
        heard: &AtomicUsize,
        returned: &tokio::sync::watch::Receiver<Option<Instant>>,
    ) -> (String, Vec<Instant>) {
        let (mut accepted, mut after) = (Vec::new(), 0);
        while after < CALLS_AFTER {
            after += usize::from(returned.borrow().is_some());
            let start = now();
            if self.is_accepted().await {
                accepted.push(start);
                if accepted.len() == CALLS_BEFORE {
                    heard.fetch_add(1, Relaxed);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        let way = match &self.way {
            Way::Door(_, door, token) => format!("{door:?}, token: {}", token.is_some()),
            Way::Near(_) => "a near-cache".to_owned(),
        };
        (format!("instance {}, {way}", self.number), accepted)
    }

    async fn is_accepted(&self) -> bool {
        match &self.way {
            Way::Door(connections, door, token) => {
                connections.accept(*door, token.as_deref(), &self.key).await
            }
            Way::Near(near) => {
                let asked = || VerifyRequest::new(Secret::new(self.key.clone()));
                near.cached(&asked()).is_some()
                    || matches!(near.verify(asked()).await, Ok(Answered::Valid(_)))
            }
        }
    }
}

impl Connections {
    /// Whether this door accepts the caller. The key is always VALID.
    async fn accept(&self, door: Door, token: Option<&str>, key: &str) -> bool {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let client = Client::over(self.grpc.clone(), token);
        match door {
            Door::Grpc => {
                let verdict = client.send(verifying(key)).await.map(|it| it.verdict());
                answered(verdict).is_some_and(|verdict| {
                    assert_eq!(verdict, Verdict::Valid);
                    true
                })
            }
            Door::Envoy => {
                let answer = client.send(checking(key)).await;
                answered(answer).is_some_and(|answer| {
                    assert_eq!(answer.status.unwrap().code, 0);
                    true
                })
            }
            Door::Json => {
                let body = json!({"apiKey": key}).to_string();
                let mut headers = vec![("content-type", "application/json")];
                headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
                let answer = self.json.ask("POST", "/v1/keys:verify", &headers, &body);
                let answer = answer.await.unwrap();
                assert!([200, 401, 503].contains(&answer.status), "{answer:?}");
                answer.status == 200
            }
            Door::Auth => {
                let mut headers = vec![("apikey", key)];
                headers.extend(token.map(|token| ("x-keyward-token", token)));
                let answer = self.auth.ask("GET", "/auth", &headers, "").await.unwrap();
                assert!([200, 503].contains(&answer.status), "{answer:?}");
                answer.status == 200
            }
        }
    }
}

/// The answer to an accepted caller.
fn answered<T>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(status) => {
            let expected = [Code::Unauthenticated, Code::Unavailable];
            assert!(expected.contains(&status.code()), "{status:?}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_door_of_two_instances_accepts_a_caller_after_revoke_token_returned() {
    let world = World::start().await;
    let mut lanes = Vec::new();
    for number in 0..LANES {
        lanes.push(Lane::new(&world, number).await);
    }
    let begun = now();
    let running = lanes.iter().map(|lane| world.run(lane));
    futures_util::future::join_all(running).await;
    println!("callers: {:?} in {:?}", world.seen, begun.elapsed());
}

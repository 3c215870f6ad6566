//! Each RPC is dropped after one poll, after two, and so on until it completes, on both stores.
//! This happens when a client disconnects or its deadline passes. Other connections see each change
//! that was answered with OK, and the next calls find nothing left behind.

use keyward::grpc::Api;
use keyward_proto::v1::admin_service_server::AdminService;
use keyward_proto::v1::api_key_service_server::ApiKeyService;
use keyward_proto::v1::{self, Verdict};
use keyward_testkit::requests::*;
use keyward_testkit::{
    Client, Cluster, Local, Options, PATIENCE, Postgres, Scheme, eventually, importing, undoing,
    uuid_v4,
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

/// More polls than any call needs.
const ENOUGH: usize = 100;

/// Polls `call` at most `times` times, drops it, and returns the answer if there is one.
async fn polled<T>(
    times: usize,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Option<T> {
    let answer = keyward_testkit::polled(times, call).await;
    answer.map(|answer| answer.unwrap().into_inner())
}

/// A service, and a client that inspects it.
struct World {
    local: Local,
    api: Api,
    client: Client,
}

impl World {
    async fn new(local: Local) -> Self {
        Self {
            api: local.app.api().clone(),
            client: local.client().await,
            local,
        }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.local.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    async fn key(&self, api_key: &str) -> v1::ApiKey {
        let answer = self.client.send(getting_by_text(api_key)).await;
        answer.unwrap().key.unwrap()
    }

    async fn list(&self, account: &str) -> Vec<v1::ApiKey> {
        self.client.list(account).await.unwrap()
    }

    /// Drops a call at each of its await points. `call` starts a new call each time; `check` gets
    /// the answer if there is one.
    async fn everywhere<T>(
        &self,
        name: &str,
        call: impl AsyncFn(&Self, usize) -> Option<T>,
        check: impl AsyncFn(&Self, usize, Option<T>),
    ) {
        for times in 1..ENOUGH {
            let answer = call(self, times).await;
            let completed = answer.is_some();
            check(self, times, answer).await;
            // The next calls find nothing left behind.
            let (id, text) = self
                .client
                .issue(&format!("{name} after {times}"), "")
                .await
                .unwrap();
            assert_eq!(self.client.verify(&text).await.unwrap(), Verdict::Valid);
            self.client.revoke(&id).await.unwrap();
            assert_eq!(self.client.verify(&text).await.unwrap(), Verdict::Revoked);
            if completed {
                return;
            }
        }
        panic!("{name} never completes");
    }
}

async fn issue(world: &World) {
    let account = |times| format!("issue {times}");
    world
        .everywhere(
            "issue",
            async |world, times| {
                let request = world.request(slot(&account(times)));
                polled(times, ApiKeyService::issue(&world.api, request)).await
            },
            async |world, times, answer| {
                if let Some(answer) = answer {
                    assert!(answer.created);
                    assert_eq!(world.key(&answer.api_key).await, answer.key.unwrap());
                }
                let (id, _) = world.client.issue(&account(times), "").await.unwrap();
                let keys = world.list(&account(times)).await;
                assert_eq!(keys.len(), 1, "{keys:?}");
                assert_eq!(keys[0].key_id, id);
            },
        )
        .await;
}

async fn revoke(world: &World, replace: bool) {
    let name = if replace { "replace" } else { "revoke" };
    let account = |times: usize| format!("{name} {times}");
    let revocation = if replace { replacing } else { by_id };
    world
        .everywhere(
            name,
            async |world, times| {
                let (id, _) = world.client.issue(&account(times), "").await.unwrap();
                let request = world.request(revocation(&id));
                polled(times, ApiKeyService::revoke(&world.api, request)).await
            },
            async |world, times, answer| {
                let keys = world.list(&account(times)).await;
                let old = keys[0].key_id.clone();
                if let Some(answer) = answer {
                    assert!(keys[0].revoke_time.is_some());
                    assert_eq!(answer.revoked[0], keys[0]);
                    assert_eq!(answer.replacement.as_ref(), keys.get(1));
                }
                let again = world.client.send(revocation(&old)).await.unwrap();
                let keys = world.list(&account(times)).await;
                assert_eq!(keys.len(), 1 + usize::from(replace), "{keys:?}");
                assert_eq!(again.replacement.as_ref(), keys.get(1));
                let live = keys.iter().filter(|key| key.revoke_time.is_none()).count();
                assert_eq!(live, usize::from(replace), "{keys:?}");
            },
        )
        .await;
}

async fn revoke_account(world: &World) {
    let account = |times: usize| format!("account {times}");
    world
        .everywhere(
            "account",
            async |world, times| {
                for slot in ["a", "b"] {
                    world.client.issue(&account(times), slot).await.unwrap();
                }
                let request = world.request(by_account(&account(times)));
                polled(times, ApiKeyService::revoke(&world.api, request)).await
            },
            async |world, times, answer| {
                let dead = |keys: &[v1::ApiKey]| {
                    keys.iter().filter(|key| key.revoke_time.is_some()).count()
                };
                let before = dead(&world.list(&account(times)).await);
                assert!(before == 0 || before == 2, "both or none");
                assert!(answer.is_none() || before == 2);
                world
                    .client
                    .send(by_account(&account(times)))
                    .await
                    .unwrap();
                assert_eq!(dead(&world.list(&account(times)).await), 2);
            },
        )
        .await;
}

async fn update(world: &World) {
    let account = |times: usize| format!("update {times}");
    world
        .everywhere(
            "update",
            async |world, times| {
                let (id, _) = world.client.issue(&account(times), "").await.unwrap();
                let request = world.request(disabling(&id, true));
                polled(times, ApiKeyService::update(&world.api, request)).await
            },
            async |world, times, answer| {
                let key = world.list(&account(times)).await.remove(0);
                assert!(answer.is_none() || key.disabled);
                let again = world.client.disable(&key.key_id, true).await;
                assert!(again.unwrap().key.unwrap().disabled);
            },
        )
        .await;
}

/// Reads: Verify of an uncached key, Get, and List.
async fn reads(world: &World) {
    world
        .everywhere(
            "verify",
            async |world, times| {
                let (_, text) = world.client.issue(&format!("v {times}"), "").await.unwrap();
                let request = verifying(&text);
                let one = world.request(request.clone());
                let one = polled(times, ApiKeyService::verify(&world.api, one)).await;
                let batch = v1::VerifyBatchRequest {
                    requests: vec![request; 3],
                };
                let batch = world.request(batch);
                let batch = polled(times, ApiKeyService::verify_batch(&world.api, batch)).await;
                assert_eq!(world.client.verify(&text).await.unwrap(), Verdict::Valid);
                one.zip(batch)
            },
            async |_, _, answer| {
                if let Some((one, batch)) = answer {
                    assert_eq!(one.verdict(), Verdict::Valid);
                    assert!(
                        batch
                            .responses
                            .iter()
                            .all(|one| one.verdict() == Verdict::Valid)
                    );
                }
            },
        )
        .await;
    world
        .everywhere(
            "get",
            async |world, times| {
                let (id, _) = world.client.issue(&format!("g {times}"), "").await.unwrap();
                let get = world.request(getting(&id));
                let got = polled(times, ApiKeyService::get(&world.api, get)).await;
                let list = world.request(listing(&format!("g {times}")));
                let listed = polled(times, ApiKeyService::list(&world.api, list)).await;
                got.zip(listed)
            },
            async |_, _, answer| {
                if let Some((got, listed)) = answer {
                    assert_eq!(listed.keys, [got.key.unwrap()]);
                }
            },
        )
        .await;
}

async fn tokens(world: &World) {
    let listed = async |world: &World| {
        let request = v1::ListTokensRequest {
            include_revoked: true,
            page_size: 1_000,
            ..Default::default()
        };
        world.client.send(request).await.unwrap().caller_tokens
    };
    world
        .everywhere(
            "create_token",
            async |world, times| {
                let name = format!("token-{times}");
                let request = world.request(creating_token(&name, &[v1::Role::Verifier]));
                polled(times, AdminService::create_token(&world.api, request)).await
            },
            async |world, _, answer| {
                if let Some(answer) = answer {
                    let made = answer.caller_token.unwrap();
                    assert!(listed(world).await.contains(&made));
                }
            },
        )
        .await;
    world
        .everywhere(
            "revoke_token",
            async |world, times| {
                let request = creating_token(&format!("dies-{times}"), &[v1::Role::Verifier]);
                let made = world.client.send(request).await.unwrap();
                let id = made.caller_token.unwrap().token_id;
                let request = world.request(revoking_token(&id));
                polled(times, AdminService::revoke_token(&world.api, request)).await
            },
            async |world, times, answer| {
                let all = listed(world).await;
                let name = format!("dies-{times}");
                let token = all.iter().find(|token| token.name == name).unwrap();
                assert!(answer.is_none() || token.revoke_time.is_some());
            },
        )
        .await;
}

/// An import stores all keys of the call or none, and undoing it kills all.
async fn imports(world: &World) {
    let account = |times: usize, n: usize| format!("import {times} {n}");
    let texts = Mutex::new(Vec::new());
    world
        .everywhere(
            "import",
            async |world, times| {
                let new = [uuid_v4(), uuid_v4()];
                let keys = new.iter().zip(1..);
                let keys = keys.map(|(text, n)| Scheme::Text.key(&account(times, n), text));
                let request = importing(keys.collect::<Vec<_>>());
                texts.lock().push((request.batch_id.clone(), new.clone()));
                let request = world.request(request);
                polled(times, AdminService::import_keys(&world.api, request)).await
            },
            async |world, times, answer| {
                let mut count = 0;
                for n in 1..=2 {
                    count += world.list(&account(times, n)).await.len();
                }
                // A call that goes on without its caller may commit at any time.
                assert!(answer.is_none() || count == 2);
            },
        )
        .await;
    world
        .everywhere(
            "undo",
            async |world, times| {
                let (batch_id, _) = texts.lock()[times - 1].clone();
                let request = world.request(undoing(&batch_id));
                polled(times, AdminService::undo_import(&world.api, request)).await
            },
            async |world, times, answer| {
                let (batch_id, texts) = texts.lock()[times - 1].clone();
                if answer.is_none() {
                    world.client.send(undoing(&batch_id)).await.unwrap();
                }
                for text in &texts {
                    let verdict = world.client.verify(text).await.unwrap();
                    assert!(matches!(verdict, Verdict::Revoked | Verdict::NotFound));
                }
            },
        )
        .await;
}

async fn all(world: &World) {
    issue(world).await;
    revoke(world, false).await;
    revoke(world, true).await;
    revoke_account(world).await;
    update(world).await;
    reads(world).await;
    tokens(world).await;
    imports(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_may_be_dropped_at_any_point_on_the_embedded_store() {
    let world = World::new(crate::import::start().await.0).await;
    all(&world).await;
    world.local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_may_be_dropped_at_any_point_on_postgres() {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, Options::default());
    let world = World::new(cluster.local().await).await;
    all(&world).await;
    let url = cluster.postgres.superuser_url();
    eventually("no transaction stays open", PATIENCE, async || {
        let open = "SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'keyward' AND state LIKE 'idle in transaction%'";
        let open = sqlx::query_scalar::<_, i64>(open);
        open.fetch_one(&mut Postgres::connect(&url).await)
            .await
            .unwrap()
            == 0
    })
    .await;
    world.local.app.stop().await;
}

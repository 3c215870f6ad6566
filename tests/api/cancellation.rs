//! Each RPC is dropped after one poll, after two, and so on until it completes, as when a client
//! goes away or its deadline passes: on both stores. What was answered OK is seen by whoever comes
//! after, on a connection of its own; and nothing is left behind that the next call could meet.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use keyward::grpc::Api;
use keyward_proto::v1::admin_service_server::AdminService;
use keyward_proto::v1::api_key_service_server::ApiKeyService;
use keyward_proto::v1::{self, Verdict, get_request, revoke_request::Target};
use keyward_testkit::{Client, Cluster, Local, Options, Postgres};
use tonic::{Request, Response, Status};

/// More polls than any call takes.
const ENOUGH: usize = 100;

/// Polls `call` so many times, whenever it asks for it, and drops it then; its answer, if it came.
async fn polled<T>(
    times: usize,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Option<T> {
    let mut call = pin!(call);
    let mut left = times;
    let answer = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    answer.await.map(|answer| answer.unwrap().into_inner())
}

/// A service, and somebody who looks at what it has done.
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
        let request = v1::GetRequest {
            target: Some(get_request::Target::ApiKey(api_key.to_owned())),
        };
        let answer = self.client.keys.clone().get(request).await.unwrap();
        answer.into_inner().key.unwrap()
    }

    async fn list(&self, account: &str) -> Vec<v1::ApiKey> {
        let request = v1::ListRequest {
            account_id: account.to_owned(),
            include_revoked: true,
            ..Default::default()
        };
        let answer = self.client.keys.clone().list(request).await.unwrap();
        answer.into_inner().keys
    }

    /// Drops a call at every point it has, `call` makes a new one each time; `check` is told what
    /// was answered, if anything was.
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
            // The next calls meet nothing that was left behind.
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

fn revocation(target: Target, replace: bool) -> v1::RevokeRequest {
    v1::RevokeRequest {
        target: Some(target),
        replace,
        ..Default::default()
    }
}

async fn issue(world: &World) {
    let account = |times| format!("issue {times}");
    world
        .everywhere(
            "issue",
            async |world, times| {
                let request = v1::IssueRequest {
                    account_id: account(times),
                    ..Default::default()
                };
                polled(
                    times,
                    ApiKeyService::issue(&world.api, world.request(request)),
                )
                .await
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
    world
        .everywhere(
            name,
            async |world, times| {
                let (id, _) = world.client.issue(&account(times), "").await.unwrap();
                let request = revocation(Target::KeyId(id), replace);
                polled(
                    times,
                    ApiKeyService::revoke(&world.api, world.request(request)),
                )
                .await
            },
            async |world, times, answer| {
                let keys = world.list(&account(times)).await;
                let old = keys[0].key_id.clone();
                if let Some(answer) = answer {
                    assert!(keys[0].revoke_time.is_some());
                    assert_eq!(answer.revoked[0], keys[0]);
                    assert_eq!(answer.replacement.as_ref(), keys.get(1));
                }
                let again = revocation(Target::KeyId(old), replace);
                let again = world.client.keys.clone().revoke(again).await.unwrap();
                let again = again.into_inner();
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
                let request = revocation(Target::AccountId(account(times)), false);
                polled(
                    times,
                    ApiKeyService::revoke(&world.api, world.request(request)),
                )
                .await
            },
            async |world, times, answer| {
                let dead = |keys: &[v1::ApiKey]| {
                    keys.iter().filter(|key| key.revoke_time.is_some()).count()
                };
                let before = dead(&world.list(&account(times)).await);
                assert!(before == 0 || before == 2, "both or none");
                assert!(answer.is_none() || before == 2);
                let again = revocation(Target::AccountId(account(times)), false);
                world.client.keys.clone().revoke(again).await.unwrap();
                assert_eq!(dead(&world.list(&account(times)).await), 2);
            },
        )
        .await;
}

async fn update(world: &World) {
    let account = |times: usize| format!("update {times}");
    let request = |id: String| v1::UpdateRequest {
        key: Some(v1::ApiKey {
            key_id: id,
            disabled: true,
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["disabled".to_owned()],
        }),
    };
    world
        .everywhere(
            "update",
            async |world, times| {
                let (id, _) = world.client.issue(&account(times), "").await.unwrap();
                polled(
                    times,
                    ApiKeyService::update(&world.api, world.request(request(id))),
                )
                .await
            },
            async |world, times, answer| {
                let key = world.list(&account(times)).await.remove(0);
                assert!(answer.is_none() || key.disabled);
                let again = request(key.key_id);
                let again = world.client.keys.clone().update(again).await.unwrap();
                assert!(again.into_inner().key.unwrap().disabled);
            },
        )
        .await;
}

/// Reads: of a key that is in nobody's memory yet, of a key, of keys.
async fn reads(world: &World) {
    world
        .everywhere(
            "verify",
            async |world, times| {
                let (_, text) = world.client.issue(&format!("v {times}"), "").await.unwrap();
                let request = v1::VerifyRequest {
                    api_key: text.clone(),
                    ..Default::default()
                };
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
                let get = v1::GetRequest {
                    target: Some(get_request::Target::KeyId(id)),
                };
                let got = polled(times, ApiKeyService::get(&world.api, world.request(get))).await;
                let list = v1::ListRequest {
                    account_id: format!("g {times}"),
                    ..Default::default()
                };
                let list = world.request(list);
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
        let answer = world.client.admin.clone().list_tokens(request).await;
        answer.unwrap().into_inner().caller_tokens
    };
    world
        .everywhere(
            "create_token",
            async |world, times| {
                let request = v1::CreateTokenRequest {
                    name: format!("token-{times}"),
                    roles: vec![v1::Role::Verifier.into()],
                };
                let request = world.request(request);
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
                let request = v1::CreateTokenRequest {
                    name: format!("dies-{times}"),
                    roles: vec![v1::Role::Verifier.into()],
                };
                let made = world.client.admin.clone().create_token(request).await;
                let id = made.unwrap().into_inner().caller_token.unwrap().token_id;
                let request = world.request(v1::RevokeTokenRequest { token_id: id });
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

async fn all(world: &World) {
    issue(world).await;
    revoke(world, false).await;
    revoke(world, true).await;
    revoke_account(world).await;
    update(world).await;
    reads(world).await;
    tokens(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_may_be_dropped_at_any_point_on_the_embedded_store() {
    let world = World::new(Local::start().await).await;
    all(&world).await;
    world.local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_may_be_dropped_at_any_point_on_postgres() {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, Options::default());
    let world = World::new(cluster.local().await).await;
    all(&world).await;
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let hand = &mut hand;
    let patience = Duration::from_secs(5);
    let mut open = 1;
    let begun = keyward_testkit::now();
    while open > 0 {
        assert!(begun.elapsed() < patience, "{open} transactions stay open");
        let count = "SELECT count(*) FROM pg_stat_activity
                      WHERE application_name = 'keyward' AND state LIKE 'idle in transaction%'";
        open = sqlx::query_scalar::<_, i64>(count)
            .fetch_one(&mut *hand)
            .await
            .unwrap();
    }
    world.local.app.stop().await;
}

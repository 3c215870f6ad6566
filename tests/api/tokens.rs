//! AdminService: the tokens of callers.

use keyward_proto::v1::{self, Role};
use keyward_testkit::{Client, Local, invalid, refused};
use tonic::{Code, Status};

use super::*;

async fn create(
    client: &Client,
    name: &str,
    roles: &[i32],
) -> Result<v1::CreateTokenResponse, Status> {
    let request = v1::CreateTokenRequest {
        name: name.to_owned(),
        roles: roles.to_vec(),
        ..Default::default()
    };
    client.send(request).await
}

async fn list(client: &Client, include_revoked: bool) -> Vec<v1::CallerToken> {
    let request = v1::ListTokensRequest {
        include_revoked,
        ..Default::default()
    };
    client.send(request).await.unwrap().caller_tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_listed_and_revoked() {
    let (local, client) = start().await;
    let roles = [Role::Reader, Role::Issuer, Role::Reader].map(i32::from);
    let made = create(&client, "bot", &roles).await.unwrap();
    let token = made.caller_token.unwrap();
    assert!(made.token.starts_with("kwt_"));
    assert_eq!(token.name, "bot");
    assert!(
        token.roles().eq([Role::Issuer, Role::Reader]),
        "in their order, once"
    );
    assert!(token.create_time.is_some() && token.revoke_time.is_none());
    assert_eq!(token.revision, 0);

    let listed = list(&client, false).await;
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (listed[0].name.as_str(), listed[0].roles.len()),
        ("admin", 9)
    );
    assert_eq!(listed[1], token);

    let bot = Client::new(local.app.grpc_address(), Some(&made.token)).await;
    bot.issue("42", "").await.unwrap();
    let ended = client.send(revoking_token(&token.token_id)).await.unwrap();
    refused(
        bot.issue("42", "").await,
        Code::Unauthenticated,
        "TOKEN_INVALID",
    );
    let revoked = ended.caller_token.clone().unwrap();
    assert!(revoked.revoke_time.is_some());
    assert_eq!(ended.revision, revoked.revision);
    assert_eq!(
        (ended.confirmed_instances, ended.waited_out_instances),
        (1, 0)
    );
    assert_eq!(list(&client, true).await[1], revoked);
    assert_eq!(list(&client, false).await, listed[..1]);

    assert_eq!(
        client.send(revoking_token(&token.token_id)).await.unwrap(),
        ended,
        "idempotent"
    );
}

/// A connection remembers its caller. Each call asks the fence again.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_on_a_connection_that_knows_it() {
    let (local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let roles = [Role::Verifier.into()];
    let made = create(&client, "api", &roles).await.unwrap();
    let caller = Client::new(local.app.grpc_address(), Some(&made.token)).await;
    for _ in 0..3 {
        assert_eq!(caller.verify(&key).await.unwrap(), Verdict::Valid);
    }
    let id = made.caller_token.unwrap().token_id;
    client.send(revoking_token(&id)).await.unwrap();
    let refusal = caller.verify(&key).await;
    refused(refusal, Code::Unauthenticated, "TOKEN_INVALID");
}

/// Creates a token that expires.
async fn expiring(client: &Client, role: Role, ttl: i64) -> v1::CreateTokenResponse {
    let request = v1::CreateTokenRequest {
        ttl: seconds(ttl),
        ..creating_token("api", &[role])
    };
    client.send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_on_a_connection_that_knows_it() {
    let (local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let made = expiring(&client, Role::Verifier, 3_600).await;
    let token = made.caller_token.unwrap();
    assert_eq!(
        token.expire_time,
        token.create_time.map(|time| later(time, 3_600))
    );
    let caller = Client::new(local.app.grpc_address(), Some(&made.token)).await;
    assert_eq!(caller.verify(&key).await.unwrap(), Verdict::Valid);
    pass(&local, 3_590).await;
    for _ in 0..3 {
        assert_eq!(caller.verify(&key).await.unwrap(), Verdict::Valid);
    }
    pass(&local, 20).await;
    for _ in 0..2 {
        let status = caller.verify(&key).await.unwrap_err();
        assert_eq!(status.message(), "the token has expired");
        refused(Err::<(), _>(status), Code::Unauthenticated, "TOKEN_INVALID");
    }
    assert_eq!(list(&client, false).await[1], token, "it is not revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expiry_of_a_token_keeps_its_limits() {
    let (_local, client) = start().await;
    let tomorrow = later(
        list(&client, false).await[0].create_time.unwrap(),
        24 * 3_600,
    );
    let creating = |ttl, expire_time| v1::CreateTokenRequest {
        ttl,
        expire_time,
        ..creating_token("bot", &[Role::Reader])
    };
    for (ttl, expire_time, field) in [
        (seconds(0), None, "ttl"),
        (seconds(-1), None, "ttl"),
        (seconds(101 * 365 * 24 * 3_600), None, "ttl"),
        (seconds(60), Some(tomorrow), "ttl"),
        (None, Some(later(tomorrow, -48 * 3_600)), "expire_time"),
        (None, Some(later(tomorrow, 300_000_000_000)), "expire_time"),
    ] {
        invalid(client.send(creating(ttl, expire_time)).await, field);
    }
    let made = client.send(creating(None, Some(tomorrow))).await.unwrap();
    assert_eq!(made.caller_token.unwrap().expire_time, Some(tomorrow));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_first_callers_last_token_is_measured() {
    let (local, client) = start().await;
    let day = 24 * 3_600;
    let ends = |made: v1::CreateTokenResponse| made.caller_token.unwrap().expire_time.unwrap();
    expiring(&client, Role::Verifier, 30 * day).await;
    let first = ends(expiring(&client, Role::Verifier, 90 * day).await);
    let other = v1::CreateTokenRequest {
        ttl: seconds(95 * day),
        ..creating_token("other", &[Role::Verifier])
    };
    client.send(other).await.unwrap();
    first_end_is(local, first).await;
}

/// Waits until the metric shows when the first caller's last token expires. It is measured at the start, and then
/// every minute.
async fn first_end_is(local: Local, first: prost_types::Timestamp) {
    let local = local.restart().await;
    let side = local.app.http_address().unwrap();
    let wanted = format!("keyward_caller_token_expire_time_seconds {}", first.seconds);
    let is_measured = async || {
        let metrics = keyward_testkit::http_get(side, "/metrics").await;
        metrics.lines().any(|line| line == wanted)
    };
    keyward_testkit::eventually("it is measured", keyward_testkit::PATIENCE, is_measured).await;
    local.app.stop().await;
}

/// A program may make a token every few minutes, and nobody revokes the expired ones.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_tokens_hide_no_caller() {
    let (local, client) = start().await;
    let day = 24 * 3_600;
    // Their ids are the first ones. The last of them has a successor.
    let many = "INSERT INTO caller_tokens (token_id, digest, generation, name, roles, create_time, expire_time)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n <= 10000)
         SELECT unhex(printf('%032x', n)), randomblob(32), 1, iif(n > 10000, 'api', 'job-' || n), 'verifier',
                (unixepoch() - iif(n > 10000, 30, 2) * 86400) * 1000000,
                (unixepoch() + iif(n > 10000, 60, -1) * 86400) * 1000000
           FROM n";
    by_hand(&local, many).await;
    expiring(&client, Role::Verifier, 95 * day).await;
    let other = v1::CreateTokenRequest {
        ttl: seconds(90 * day),
        ..creating_token("other", &[Role::Verifier])
    };
    let first = client.send(other).await.unwrap().caller_token.unwrap();
    first_end_is(local, first.expire_time.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_may_share_a_name_so_that_one_takes_over() {
    let (local, client) = start().await;
    let roles = [Role::Issuer.into()];
    let old = create(&client, "bot", &roles).await.unwrap();
    let new = create(&client, "bot", &roles).await.unwrap();
    assert_ne!(old.token, new.token);
    let old = old.caller_token.unwrap().token_id;
    client.send(revoking_token(&old)).await.unwrap();
    let bot = Client::new(local.app.grpc_address(), Some(&new.token)).await;
    bot.issue("42", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_revoke_its_own_token() {
    let (_local, client) = start().await;
    let own = list(&client, false).await.remove(0).token_id;
    client.send(revoking_token(&own)).await.unwrap();
    let outcome = client.token("next", &[Role::Reader]).await;
    refused(outcome, Code::Unauthenticated, "TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_the_first_start_stay_at_the_next() {
    let local = Local::start().await;
    let local = local.restart().await;
    assert_eq!(list(&local.client().await, true).await.len(), 1);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_page_by_page() {
    let (_local, client) = start().await;
    for n in 0..4 {
        client
            .token(&format!("n{n}"), &[Role::Reader])
            .await
            .unwrap();
    }
    let mut names = Vec::new();
    let mut request = v1::ListTokensRequest {
        page_size: 2,
        ..Default::default()
    };
    loop {
        let page = client.send(request.clone()).await.unwrap();
        names.push(
            page.caller_tokens
                .into_iter()
                .map(|token| token.name)
                .collect(),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    names
        .iter_mut()
        .for_each(|page: &mut Vec<String>| page.sort());
    assert_eq!(names.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    let mut all = names.concat();
    all.sort();
    assert_eq!(all, ["admin", "n0", "n1", "n2", "n3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_keeps_its_limits() {
    let (_local, client) = start().await;
    let roles = [Role::Issuer.into()];
    for name in ["", "a b", "é", "a\n", &"x".repeat(65)] {
        invalid(create(&client, name, &roles).await, "name");
    }
    for roles in [&[] as &[i32], &[0], &[1, 99], &[-1]] {
        invalid(create(&client, "bot", roles).await, "roles");
    }
    create(&client, &"x".repeat(64), &roles).await.unwrap();
    assert_eq!(list(&client, true).await.len(), 2);

    for wrong in ["", "x", "0189000000007000800000000000000000"] {
        invalid(client.send(revoking_token(wrong)).await, "token_id");
    }
    let key_id = client.issue("42", "").await.unwrap().0;
    for unknown in [UNKNOWN, &key_id] {
        let outcome = client.send(revoking_token(unknown)).await;
        refused(outcome, Code::NotFound, "TOKEN_NOT_FOUND");
    }
}

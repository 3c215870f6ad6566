//! What an agent answers by itself: what Keyward would answer, and never VALID after a Revoke.

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::requests::{disabling, slot, verifying, verifying_strongly};
use tonic::Code;

use super::{By, World, check};

/// Keys in each state, and what is asked about them.
async fn questions(world: &World) -> Vec<v1::VerifyRequest> {
    let admin = &world.admin;
    let request = v1::IssueRequest {
        scopes: vec!["a".to_owned(), "b".to_owned()],
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        metadata: [("plan".to_owned(), "pro é".to_owned())].into(),
        ttl: keyward_testkit::requests::seconds(3_600),
        ..slot("live")
    };
    let live = admin.send(request).await.unwrap().api_key;
    let (revoked_id, revoked) = admin.issue("revoked", "").await.unwrap();
    let (disabled_id, disabled) = admin.issue("disabled", "").await.unwrap();
    // The agent has seen them alive.
    let program = world.program().await;
    for key in [&revoked, &disabled] {
        assert_eq!(program.verify(key).await.unwrap(), Verdict::Valid);
    }
    admin.revoke(&revoked_id).await.unwrap();
    admin.disable(&disabled_id, true).await.unwrap();
    let of_live = |scope: &str, client_ip: &str| v1::VerifyRequest {
        required_scopes: vec![scope.to_owned()],
        client_ip: client_ip.to_owned(),
        ..verifying(&live)
    };
    let mut invented = live.clone();
    let last = invented.pop().unwrap();
    invented.push(if last == 'a' { 'b' } else { 'a' });
    vec![
        of_live("b", "10.1.2.3"),
        of_live("c", "10.1.2.3"),
        of_live("a", "11.1.2.3"),
        of_live("a", ""),
        verifying(&revoked),
        verifying(&disabled),
        verifying(&invented),
        verifying("no key"),
        verifying(""),
        verifying(&"x".repeat(5_000)),
        v1::VerifyRequest {
            client_ip: "10.1.2.3".to_owned(),
            ..verifying_strongly(&live)
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_as_keyward_does() {
    for by in [By::Ports, By::Sockets] {
        let mut world = World::start(by).await;
        let program = world.program().await;
        let questions = questions(&world).await;
        // Twice: the second time it knows the keys.
        for _ in 0..2 {
            for question in &questions {
                let here = program.send(question.clone()).await.unwrap();
                let there = world.admin.send(question.clone()).await.unwrap();
                assert_eq!(here, there, "{question:?}");
            }
            let batch = v1::VerifyBatchRequest {
                requests: questions.clone(),
            };
            let here = program.send(batch.clone()).await.unwrap();
            assert_eq!(here, world.admin.send(batch).await.unwrap());
        }
        // Wrong requests are refused as Keyward refuses them.
        let wrong = [
            v1::VerifyRequest {
                client_ip: "10.0.0.0/8".to_owned(),
                ..verifying("x")
            },
            v1::VerifyRequest {
                required_scopes: vec!["a b".to_owned()],
                ..verifying("x")
            },
            v1::VerifyRequest {
                consistency: 7,
                ..verifying("x")
            },
        ];
        for request in wrong {
            let here = program.send(request.clone()).await.unwrap_err();
            let there = world.admin.send(request).await.unwrap_err();
            let shown = |status: &tonic::Status| (status.code(), status.message().to_owned());
            assert_eq!(shown(&here), shown(&there));
            assert_eq!(here.details(), there.details());
        }
        let huge = program.send(verifying(&"x".repeat(2 << 20))).await;
        assert_eq!(huge.unwrap_err().code(), Code::OutOfRange);
        assert!(world.agent.stop().success(), "{}", world.agent.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_takes_no_call_and_its_caller_gets_nothing_to_keep() {
    let world = World::start(By::Ports).await;
    let program = world.program().await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    let asked = async || {
        let line = "keyward_rpc_total{method=\"Verify\",code=\"OK\"}";
        super::metric(world.keyward.http, line).await
    };
    let wanted = v1::VerifyRequest {
        want_cache_entry: true,
        ..verifying(&key)
    };
    let first = program.send(wanted.clone()).await.unwrap();
    let before = asked().await;
    for _ in 0..50 {
        assert_eq!(program.send(wanted.clone()).await.unwrap(), first);
        assert_eq!(world.auth(&key).await.status, 200);
        assert_eq!(world.json(&key).await.status, 200);
        let checked = check(&program, world.local, &key).await.unwrap();
        assert_eq!(checked, 0);
    }
    assert_eq!(asked().await, before, "known keys take no call");
    assert!(first.cache_entry.is_none());
    let hits = "keyward_agent_verify_total{outcome=\"hit\"}";
    assert!(world.metric(hits).await >= 200);
    assert_eq!(world.metric("keyward_agent_keys").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_are_those_of_keyward() {
    for by in [By::Ports, By::Sockets] {
        let world = World::start(by).await;
        let (id, key) = world.admin.issue("42", "").await.unwrap();
        let token = world.keyward.token();
        let rest = world.keyward.rest.unwrap();
        let bearer = format!("Bearer {token}");
        for key in [&key, "no key"] {
            let there = [("x-keyward-token", token.as_str()), ("apikey", key)];
            let there = keyward_testkit::http_ask(rest, "GET", "/auth", &there, "").await;
            let (here, there) = (world.auth(key).await, there.unwrap());
            assert_eq!((here.status, &here.body), (there.status, &there.body));
            for name in ["x-keyward-key-id", "cache-control", "www-authenticate"] {
                assert_eq!(here.header(name), there.header(name), "{name}");
            }
            assert_eq!(here.header("cache-control"), Some("no-store"));
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
            ];
            let body = serde_json::json!({"apiKey": key}).to_string();
            let path = "/v1/keys:verify";
            let there = keyward_testkit::http_ask(rest, "POST", path, &headers, &body).await;
            let (here, there) = (world.json(key).await, there.unwrap());
            assert_eq!((here.status, &here.body), (there.status, &there.body));
            assert_eq!(here.header("cache-control"), Some("no-store"));
        }
        assert_eq!(
            world.auth(&key).await.header("x-keyward-key-id"),
            Some(&*id)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_door_of_an_agent_says_valid_after_a_revoke() {
    for by in [By::Ports, By::Sockets] {
        let world = World::start(by).await;
        let program = world.program().await;
        for n in 0..30 {
            let (id, key) = world.admin.issue(&n.to_string(), "").await.unwrap();
            for _ in 0..2 {
                assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
            }
            world.admin.revoke(&id).await.unwrap();
            // Another door is the first one each time.
            for door in (0..5).map(|door| (door + n) % 5) {
                match door {
                    0 => assert_eq!(program.verify(&key).await.unwrap(), Verdict::Revoked),
                    1 => {
                        let requests = vec![verifying(&key)];
                        let batch = program.send(v1::VerifyBatchRequest { requests }).await;
                        let verdict = batch.unwrap().responses[0].verdict();
                        assert_eq!(verdict, Verdict::Revoked);
                    }
                    2 => {
                        let checked = check(&program, world.local, &key).await.unwrap();
                        assert_eq!(checked, Code::Unauthenticated as i32);
                    }
                    3 => assert_eq!(world.auth(&key).await.status, 401),
                    _ => {
                        let answer = world.json(&key).await.body;
                        assert!(answer.contains("VERDICT_REVOKED"), "{answer}");
                    }
                }
            }
        }
        let disabled = world.admin.issue("disabled", "").await.unwrap();
        assert_eq!(program.verify(&disabled.1).await.unwrap(), Verdict::Valid);
        let disabling = disabling(&disabled.0, true);
        world.admin.send(disabling).await.unwrap();
        let verdict = program.verify(&disabled.1).await.unwrap();
        assert_eq!(verdict, Verdict::Disabled);
    }
}

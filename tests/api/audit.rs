//! The audit: who did what from where, its pages, and its chain of seals, on both stores.

mod world;

use keyward::system::SystemEntropy;
use keyward_crypto::{KeyKind, keyring_files};
use keyward_proto::v1::{
    self, AuditAction as Action, AuditFaultKind as FaultKind, AuditOutcome as Outcome,
};
use keyward_testkit::{PATIENCE, eventually, invalid, refused};
use tonic::Request;
use world::World;

use super::*;

fn with_headers<M>(message: M, headers: &[(&'static str, &str)]) -> Request<M> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_who_did_what_from_where() {
    for world in World::both().await {
        let is_sqlite = world.cluster.is_none();
        let bot = world.local.client_as(&[Role::Issuer]).await;
        let made = world.newest().await;
        assert_eq!(
            (made.action(), made.caller.as_str()),
            (Action::TokenCreate, "admin")
        );
        assert_eq!((made.key_id.as_str(), made.token_id.len()), ("", 36));

        let headers = [
            ("x-request-id", "order-7"),
            ("x-forwarded-for", "198.51.100.7, 192.0.2.9"),
        ];
        let request = with_headers(slot("42"), &headers);
        let issued = bot.keys.clone().issue(request).await.unwrap().into_inner();
        let id = issued.key.unwrap().key_id;
        let event = world.newest().await;
        let expected = v1::AuditEvent {
            action: Action::Issue.into(),
            outcome: Outcome::Done.into(),
            caller: "test".to_owned(),
            caller_token_id: made.token_id.clone(),
            key_id: id.clone(),
            account_id: "42".to_owned(),
            peer_address: "127.0.0.1".to_owned(),
            // Only the header of a trusted proxy counts.
            client_address: match is_sqlite {
                true => "192.0.2.9".to_owned(),
                false => String::new(),
            },
            request_id: "order-7".to_owned(),
            event_id: event.event_id,
            time: event.time,
            ..Default::default()
        };
        assert_eq!(event, expected);

        // All keys of an account are named, under one id of the request.
        let (second, _) = bot.issue("42", "second").await.unwrap();
        bot.send(by_account("42")).await.unwrap();
        let request = v1::ListAuditEventsRequest {
            account_id: "42".to_owned(),
            action: Action::Revoke.into(),
            ..Default::default()
        };
        let revoked = world.list(request).await;
        let ids: Vec<_> = revoked.iter().map(|event| event.key_id.clone()).collect();
        assert_eq!(ids, [id, second]);
        assert_eq!(revoked[0].request_id, revoked[1].request_id);
        assert_eq!(revoked[0].request_id.len(), 32, "{:?}", revoked[0]);

        // A refused call is recorded once a minute.
        for _ in 0..3 {
            let outcome = bot.send(v1::ListTokensRequest::default()).await;
            refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
        }
        let denied = v1::ListAuditEventsRequest {
            action: Action::Deny.into(),
            ..Default::default()
        };
        eventually("the refusal is recorded", PATIENCE, || async {
            !world.list(denied.clone()).await.is_empty()
        })
        .await;
        let found = world.list(denied).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].outcome(), Outcome::Denied);
        assert_eq!(found[0].detail, "ListTokens requires admin");
        world.local.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_the_json_port_has_its_id_in_the_audit() {
    let world = World::sqlite().await;
    let id = issue_by_curl(&world, "x-forwarded-for: 203.0.113.5").await;
    let event = world.newest().await;
    assert_eq!(event.request_id, id);
    assert_eq!(event.client_address, "203.0.113.5");
    world.local.app.stop().await;
}

/// Issues a key through the JSON port by curl. Returns the id of the request.
async fn issue_by_curl(world: &World, header: &str) -> String {
    let port = world.local.app.rest_address().unwrap();
    let authorization = format!("authorization: Bearer {}", world.local.token);
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--include", "--max-time", "60"])
        .args(["--header", &authorization, "--header", header])
        .args(["--header", "content-type: application/json"])
        .args(["--data", r#"{"accountId": "42"}"#])
        .arg(format!("http://{port}/v1/keys:issue"));
    let output = tokio::task::block_in_place(|| curl.output().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("x-request-id: "));
    id.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_by_condition_page_by_page() {
    for world in World::both().await {
        for account in ["a", "b"] {
            for n in 0..5 {
                let issued = world.client.issue(account, &format!("slot-{n}")).await;
                issued.unwrap();
            }
        }
        for (newest_first, page_size) in [(false, 2), (true, 2), (false, 0), (true, 1_000)] {
            let mut request = v1::ListAuditEventsRequest {
                account_id: "b".to_owned(),
                caller: "admin".to_owned(),
                newest_first,
                page_size,
                ..Default::default()
            };
            let mut found = Vec::new();
            loop {
                let page = world.client.send(request.clone()).await.unwrap();
                found.extend(page.events);
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            let mut ids: Vec<_> = found.iter().map(|event| event.event_id).collect();
            assert!(found.iter().all(|event| event.account_id == "b"));
            if newest_first {
                ids.reverse();
            }
            assert!(ids.len() == 5 && ids.is_sorted(), "{ids:?}");
        }
        let (key, _) = world.client.issue("c", "").await.unwrap();
        let about = v1::ListAuditEventsRequest {
            key_id: key,
            ..Default::default()
        };
        let about = world.list(about).await;
        assert_eq!(about.len(), 1);
        let time = about[0].time.unwrap();
        for (start_time, end_time, count) in [
            (Some(time), None, 1),
            (None, Some(time), 0),
            (Some(later(time, -60)), Some(later(time, 60)), 1),
            (Some(later(time, 1)), None, 0),
        ] {
            let request = v1::ListAuditEventsRequest {
                account_id: "c".to_owned(),
                start_time,
                end_time,
                ..Default::default()
            };
            assert_eq!(world.list(request).await.len(), count);
        }
        world.local.app.stop().await;
    }
}

fn time(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_conditions_are_refused() {
    let world = World::sqlite().await;
    let client = &world.client;
    type Set = fn(&mut v1::ListAuditEventsRequest);
    let requesting = |set: Set| {
        let mut request = v1::ListAuditEventsRequest::default();
        set(&mut request);
        request
    };
    let wrong: [(&str, Set); 13] = [
        ("account_id", |r| r.account_id = "x".repeat(129)),
        ("account_id", |r| r.account_id = "a\n".to_owned()),
        ("key_id", |r| r.key_id = "42".to_owned()),
        ("caller", |r| r.caller = "two words".to_owned()),
        ("caller", |r| r.caller = "x".repeat(65)),
        ("action", |r| r.action = 99),
        ("action", |r| r.action = -1),
        ("start_time", |r| r.start_time = time(0, -1)),
        ("start_time", |r| r.start_time = time(i64::MAX, 0)),
        ("end_time", |r| r.end_time = time(-90_000_000_000, 0)),
        ("end_time", |r| r.end_time = time(253_400_000_000, 0)),
        ("page_size", |r| r.page_size = -1),
        ("page_token", |r| r.page_token = "x".to_owned()),
    ];
    for (field, set) in wrong {
        invalid(client.send(requesting(set)).await, field);
    }
    client.issue("42", "").await.unwrap();
    client.issue("42", "two").await.unwrap();
    let first = client.send(requesting(|r| r.page_size = 1)).await.unwrap();
    let page_token = first.next_page_token;
    let others: [Set; 2] = [
        |r| r.account_id = "42".to_owned(),
        |r| r.newest_first = true,
    ];
    for set in others {
        let request = v1::ListAuditEventsRequest {
            page_token: page_token.clone(),
            ..requesting(set)
        };
        invalid(client.send(request).await, "page_token");
    }
    let head = world.seal(1).await;
    for wrong in [
        "x",
        "1",
        "1:",
        ":",
        &head[..head.len() - 1],
        &format!("{head}0"),
        "-1:00",
    ] {
        invalid(world.verify(wrong).await, "head");
    }
    let request = v1::VerifyAuditRequest { head, page_token };
    invalid(client.send(request).await, "page_token");
    world.local.app.stop().await;
}

/// The number of a seal.
fn number(seal: &str) -> u64 {
    seal.split(':').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_shows_what_was_changed() {
    for world in World::both().await {
        let client = &world.client;
        let (id, _) = client.issue("42", "").await.unwrap();
        let first = world.seal(1).await;
        client.revoke(&id).await.unwrap();
        let second = world.seal(1).await;
        for head in ["", &first, &second] {
            let found = world.verify(head).await.unwrap();
            assert_eq!(found.fault, None);
            assert_eq!(found.head, second);
            assert_eq!(found.unsealed_events, 0);
        }
        let (digits, number) = ("0".repeat(64), number(&second));
        let differs = world.fault(&format!("{number}:{digits}")).await;
        assert_eq!(differs, Some(FaultKind::HeadDiffers));
        let beyond = world.fault(&format!("{}:{digits}", number + 1)).await;
        assert_eq!(beyond, Some(FaultKind::EndCut));

        // An erasure of the service is no alteration; one by hand is.
        let erased = v1::EraseAccountRequest {
            account_id: "42".to_owned(),
        };
        let pseudonym = client.send(erased).await.unwrap().pseudonym;
        let third = world.seal(1).await;
        let found = world.verify(&third).await.unwrap();
        assert_eq!((found.fault, found.erased_events), (None, 2));
        let of = v1::ListAuditEventsRequest {
            account_id: pseudonym,
            ..Default::default()
        };
        let events = world.list(of).await;
        assert_eq!(events.len(), 3);
        for event in &events[..2] {
            assert!(event.erased && event.request_id.is_empty());
            assert!(event.peer_address.is_empty());
        }
        assert!(!events[2].erased && events[2].action() == Action::AccountErase);
        client.issue("43", "").await.unwrap();
        let fourth = world.seal(1).await;
        let by_hand =
            "UPDATE audit SET account_id = 'erased-x', salt = NULL, peer = NULL, client = NULL,
                              request_id = NULL WHERE account_id = '43'";
        world.tamper(by_hand).await;
        let fault = world.verify("").await.unwrap().fault.unwrap();
        assert_eq!(fault.kind(), FaultKind::EventAltered);
        assert!(fault.event_id > events[2].event_id, "{fault:?}");

        // The end is cut: only a noted seal shows it.
        let last = number + 1;
        let cut = format!(
            "DELETE FROM audit WHERE position >
                 (SELECT last_position FROM audit_seals WHERE number = {last});
             DELETE FROM audit_seals WHERE number > {last}"
        );
        world.tamper(&cut).await;
        assert_eq!(world.fault("").await, None);
        assert_eq!(world.fault(&third).await, None);
        assert_eq!(world.fault(&fourth).await, Some(FaultKind::EndCut));
        client.issue("44", "").await.unwrap();
        world.seal(1).await;
        assert_eq!(world.fault("").await, None);
        assert_eq!(world.fault(&fourth).await, Some(FaultKind::HeadDiffers));
        world.tamper("DELETE FROM audit_seals").await;
        world.tamper("DELETE FROM audit").await;
        assert_eq!(world.fault(&first).await, Some(FaultKind::EndCut));
        world.local.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_key_is_rotated_between_seals() {
    let world = World::sqlite().await;
    let client = &world.client;
    client.issue("42", "").await.unwrap();
    world.seal(1).await;
    keyring_files::add(&world.keyring(), KeyKind::Audit, None, &SystemEntropy).unwrap();
    let kind = v1::KeyringKeyKind::Audit;
    let status = async |number| {
        let status = client.send(v1::GetKeyringStatusRequest {}).await.unwrap();
        let mut keys = status.keys.into_iter();
        keys.find(|key| key.kind() == kind && key.number == number)
    };
    eventually("the new key is loaded", PATIENCE, || async {
        let found = status(2).await;
        found.is_some_and(|key| key.loaded_by == ["this instance"])
    })
    .await;
    let activate = v1::ActivateKeyringKeyRequest {
        kind: kind.into(),
        number: 2,
    };
    client.send(activate).await.unwrap();
    let head = world.seal(2).await;
    assert_eq!(world.fault(&head).await, None);
    let states: [_; 2] = [status(1).await.unwrap(), status(2).await.unwrap()];
    assert!(states[0].audit_seals >= 1);
    assert_eq!(states[1].audit_seals, 1);
    // Its seals are checked with it.
    let retire = v1::RetireKeyringKeyRequest {
        kind: kind.into(),
        number: 1,
    };
    let outcome = client.send(retire).await;
    refused(outcome, Code::FailedPrecondition, "KEYRING_KEY_IN_USE");
    world.local.app.stop().await;
}

//! Certificates that prove no caller.

use keyward_testkit::ClientFlaw;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_name_exactly_one_caller() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    world.caller("billing.example", &[Role::Verifier]).await;
    let many: Vec<_> = (0..16).map(|n| format!("n{n}.example")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (names, said) in [
        (&[][..], "common name"),
        (&["*.example"], "common name"),
        (
            &["other.example", "spiffe://corp/billing/"],
            "belongs to a caller",
        ),
        (&[NAME, "billing.example"], "several names"),
        // A text of one kind is no name of the other.
        (&["URI=billing.example"], "common name"),
        (&["DNS=spiffe://corp/billing"], "common name"),
    ] {
        is_refused(world.named(names).await.verify(&key).await, said);
    }
    many[15] = NAME;
    let billing = world.named(&many).await;
    assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    many.push("n16.example");
    is_refused(world.named(&many).await.verify(&key).await, "more than 16");
    // A name in the subject, and a caller of this name, change nothing.
    world.caller("common.example", &[Role::Verifier]).await;
    is_refused(world.named(&[]).await.verify(&key).await, "common name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_refuses_a_certificate_that_proves_nothing() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let other = Authority::new();
    let (ours, theirs) = (&world.authority, &other);
    for own in [
        ours.sign_client(&[NAME], Some(ClientFlaw::Expired)),
        ours.sign_client(&[NAME], Some(ClientFlaw::NotYetValid)),
        ours.sign_client(&[NAME], Some(ClientFlaw::ServerOnly)),
        ours.sign_client(&[NAME], Some(ClientFlaw::Authority)),
        theirs.sign_client(&[NAME], None),
        Authority::self_signed_client(&[NAME]),
    ] {
        let (address, trusted) = (world.local.app.grpc_address(), ours.pem());
        // With TLS 1.3 a client learns of the refusal when it reads.
        let Ok(channel) = connect_tls_as(address, trusted, Some(&own)).await else {
            continue;
        };
        for token in [None, Some(&*world.local.token)] {
            let client = Client::over(channel.clone(), token);
            let status = client.verify(&key).await.unwrap_err();
            assert_ne!(status.code(), Code::Unauthenticated, "{status}");
        }
    }
    let metrics = keyward_testkit::http_get(world.local.app.http_address().unwrap(), "/metrics");
    let metrics = metrics.await;
    let failed = "keyward_tls_handshakes_total{outcome=\"failed\"} ";
    let failed = metrics.lines().find_map(|line| line.strip_prefix(failed));
    assert!(failed.unwrap().parse::<u32>().unwrap() >= 6, "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_a_certificate_is_not_asked_for() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = authority.sign(&["127.0.0.1"]).write(files.path());
    let settings = |settings: &mut keyward::config::Settings| {
        (settings.tls_cert, settings.tls_key) = (Some(certificate), Some(key));
    };
    let local = Local::start_with(settings, |store| store).await;
    let (address, own) = (
        local.app.grpc_address(),
        authority.sign_client(&[NAME], None),
    );
    let channel = connect_tls_as(address, authority.pem(), Some(&own)).await;
    let channel = channel.unwrap();
    let admin = Client::over(channel.clone(), Some(&local.token));
    admin.send(with_san(NAME, &[Role::Verifier])).await.unwrap();
    let outcome = Client::over(channel, None).verify("x").await;
    refused(outcome, Code::Unauthenticated, "TOKEN_MISSING");
}

/// The reads of callers from the store.
async fn reads(world: &World) -> usize {
    let metrics = keyward_testkit::http_get(world.local.app.http_address().unwrap(), "/metrics");
    let misses = "keyward_cache_total{cache=\"token\",outcome=\"miss\"} ";
    let metrics = metrics.await;
    let misses = metrics.lines().find_map(|line| line.strip_prefix(misses));
    misses.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_with_names_of_no_caller_reads_each_name_a_few_times_a_second() {
    const CALLS: usize = 100;
    let world = world().await;
    let key = world.key().await;
    let own = world
        .authority
        .sign_client(&["a.example", "b.example", NAME], None);
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(world.present(&own, None).await);
    }
    let (before, begun) = (reads(&world).await, now());
    let flood = strangers.iter().map(async |stranger| {
        for _ in 0..CALLS {
            is_refused(stranger.verify(&key).await, "belongs to a caller");
        }
    });
    futures_util::future::join_all(flood).await;
    let periods = usize::try_from(begun.elapsed().as_millis() / 250).unwrap() + 1;
    let read = reads(&world).await - before;
    // Calls that arrive together may all read.
    assert!(read <= 3 * strangers.len() * periods, "{read} in {periods}");
    assert!(read < strangers.len() * CALLS, "{read}: a read for a call");

    // A caller that is created is known at once.
    for _ in 0..3 {
        let caller = world.caller(NAME, &[Role::Verifier]).await;
        for stranger in &strangers {
            assert_eq!(stranger.verify(&key).await.unwrap(), Verdict::Valid);
        }
        world.revoke(&caller).await;
        for stranger in &strangers {
            is_refused(stranger.verify(&key).await, "belongs to a caller");
        }
    }
}

/// A read of its name that begins before, and ends after.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_created_during_a_read_of_its_name_is_known_at_once() {
    let world = world().await;
    let key = world.key().await;
    let stranger = world.named(&[NAME]).await;
    world.faults.record.close();
    let early = {
        let (stranger, key) = (stranger.clone(), key.clone());
        tokio::spawn(async move { stranger.verify(&key).await })
    };
    world.faults.record.is_holding().await;
    world.caller(NAME, &[Role::Verifier]).await;
    world.faults.record.open();
    is_refused(early.await.unwrap(), "belongs to a caller");
    assert_eq!(stranger.verify(&key).await.unwrap(), Verdict::Valid);
}

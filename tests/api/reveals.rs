//! How often a caller may see secrets again.

use super::*;
use keyward_testkit::{http_get, refused};
use tonic_types::StatusExt as _;

async fn limited(per_minute: Option<u32>) -> Local {
    let settings = |settings: &mut keyward::config::Settings| {
        settings.max_reveals_per_minute = per_minute;
    };
    Local::start_with(settings, |store| store).await
}

fn is_over_limit<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) {
    let status = outcome.unwrap_err();
    let retry = status.get_details_retry_info().unwrap().retry_delay;
    assert!(
        retry.is_some_and(|delay| delay <= Duration::from_secs(20)),
        "{retry:?}"
    );
    assert!(
        status.message().contains("max_reveals_per_minute"),
        "{status}"
    );
    refused(
        Err::<T, _>(status),
        Code::ResourceExhausted,
        "REVEALS_EXHAUSTED",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_so_many_secrets_in_a_minute() {
    let local = limited(Some(3)).await;
    let bot = bot(&local).await;
    // New keys are not secrets that are shown again.
    for account in ["1", "2", "3", "4", "5"] {
        assert!(bot.send(recoverable(account)).await.unwrap().created);
    }
    for account in ["1", "2", "3"] {
        assert_ne!(bot.send(recoverable(account)).await.unwrap().api_key, "");
    }
    for _ in 0..2 {
        is_over_limit(bot.send(recoverable("4")).await);
    }
    // Whoever lists keys without their secrets is not concerned, nor is another caller.
    issuer(&local).await.send(recoverable("4")).await.unwrap();
    let other = local.client().await;
    let key = other.send(recoverable("4")).await.unwrap().key.unwrap();

    let replace = || v1::RevokeRequest {
        replace: true,
        ..by_id(&key.key_id)
    };
    let replaced = bot.send(replace()).await.unwrap();
    assert_ne!(replaced.api_key, "", "the successor is new");
    is_over_limit(bot.send(replace()).await);

    let metrics = http_get(local.app.http_address().unwrap(), "/metrics").await;
    for line in [
        "keyward_reveals_total{outcome=\"shown\"} 4",
        "keyward_reveals_total{outcome=\"refused\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let is_noted = async || {
        let events = other.send(v1::ListAuditEventsRequest::default()).await;
        let events = events.unwrap().events;
        let mut denied = events
            .iter()
            .filter(|event| event.action() == v1::AuditAction::Deny);
        denied.any(|event| event.detail.contains("max_reveals_per_minute"))
    };
    keyward_testkit::eventually("it is in the audit", keyward_testkit::PATIENCE, is_noted).await;

    pass(&local, 21).await;
    let shown = bot.send(recoverable("5")).await.unwrap();
    assert_ne!(shown.api_key, "");
    is_over_limit(bot.send(recoverable("5")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_every_secret_is_shown() {
    let local = limited(None).await;
    let bot = bot(&local).await;
    bot.send(recoverable("1")).await.unwrap();
    for _ in 0..100 {
        assert_ne!(bot.send(recoverable("1")).await.unwrap().api_key, "");
    }
}

//! The synchronous standby is lost: what the runbook says until it is back.

use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Options, PATIENCE, eventually, http_get, now, patiently, refused};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{BINARY, issued, replicate_synchronously, with_standby};

/// The wait for a write, 17 seconds, with time for a busy machine.
const ANSWERED: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn without_its_synchronous_standby_a_service_answers_and_goes_on_when_it_is_back() {
    let options = Options {
        max_staleness: Duration::from_secs(6),
        ..with_standby()
    };
    let mut cluster = Cluster::start(BINARY, 2, options);
    replicate_synchronously(&cluster).await;
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let keys = issued(&clients[0], 3).await;
    let [cached, revoked, disabled] = &keys[..] else {
        panic!("three keys")
    };
    for client in &clients {
        let verdict = patiently(async || client.verify(&cached.1).await).await;
        assert_eq!(verdict, Verdict::Valid);
    }

    cluster.standby().kill();
    let begun = now();
    let writes = async {
        let outcomes = tokio::join!(
            clients[0].issue("new", ""),
            clients[0].revoke(&revoked.0),
            clients[1].disable(&disabled.0, true),
        );
        let outcomes = [
            outcomes.0.map(drop),
            outcomes.1.map(drop),
            outcomes.2.map(drop),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
        }
        begun.elapsed()
    };
    let last_valid = async {
        let mut last = Duration::ZERO;
        loop {
            let sent = begun.elapsed();
            match clients[1].verify(&cached.1).await {
                Ok(verdict) => assert_eq!(verdict, Verdict::Valid),
                outcome => {
                    refused(outcome, Code::Unavailable, "NOT_FRESH");
                    return last;
                }
            }
            last = sent;
        }
    };
    let (answered, last_valid) = tokio::join!(writes, last_valid);
    println!("writes answered after {answered:?}, last VALID sent after {last_valid:?}");
    assert!(answered < ANSWERED, "{answered:?}");
    let bound = cluster.max_staleness();
    assert!(
        last_valid < bound && last_valid > bound / 2,
        "{last_valid:?}"
    );
    for (number, client) in clients.iter().enumerate() {
        eventually("health follows", PATIENCE, async || {
            client.health().await == ServingStatus::NotServing
        })
        .await;
        let ready = http_get(cluster.instance(number).http, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        eventually("the cause is told", PATIENCE, async || {
            let output = cluster.instance(number).output();
            output.contains("commits wait for a synchronous standby")
        })
        .await;
    }

    cluster.standby().start_again();
    patiently(async || clients[0].revoke(&revoked.0).await).await;
    patiently(async || clients[1].disable(&disabled.0, true).await).await;
    patiently(async || clients[0].issue("new", "").await).await;
    for client in &clients {
        for (key, verdict) in [
            (cached, Verdict::Valid),
            (revoked, Verdict::Revoked),
            (disabled, Verdict::Disabled),
        ] {
            eventually("the service goes on", PATIENCE, async || {
                client.verify(&key.1).await.ok() == Some(verdict)
            })
            .await;
        }
    }
    cluster.stop_all();
}

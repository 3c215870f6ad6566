//! Imported keys on several instances with Redis. They are imported again, under every scheme, as soon as
//! they have ended, while an instance is killed and Redis is emptied.

use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Load, Options, Redis, Scheme, importing, uuid_v4};

use super::Plan;
use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn no_import_revives_a_key_on_any_instance() {
    let redis = Redis::start();
    let mut options = Options::with_redis(redis.url());
    options
        .variables
        .push(("KEYWARD_FOREIGN_FORMATS", "uuid".to_owned()));
    options.import_secrets = true;
    let plan = Plan {
        imports: true,
        coming_and_going: true,
        ..Plan::with("imports again", options)
    };
    plan.run(async |cluster: &mut Cluster, load: &Load| {
        load.wait_for_ends(15).await;
        let (killed, added) = (cluster.running()[0], cluster.add());
        load.join(added, cluster.client(added).await);
        load.leave(killed);
        cluster.kill(killed);
        load.wait_for_ends(15).await;
        redis.kill();
        redis.restart();
        load.wait_for_ends(15).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_names_several_keys_is_logged_once() {
    let cluster = Cluster::start(
        BINARY,
        1,
        Options {
            variables: vec![("KEYWARD_FOREIGN_FORMATS", "uuid".to_owned())],
            import_secrets: true,
            ..Options::default()
        },
    );
    let client = cluster.client(0).await;
    let (text, other) = (uuid_v4(), uuid_v4());
    // Nobody can see that two digests under different schemes are of one text.
    let keys = [
        Scheme::Sha256.key("1", &text),
        Scheme::Hmac(1).key("2", &text),
        Scheme::Text.key("3", &other),
    ];
    let imported = client.send(importing(keys)).await.unwrap();
    assert_eq!(imported.imported, 3);
    let mut ids = Vec::new();
    for account in ["1", "2"] {
        ids.push(client.list(account).await.unwrap()[0].key_id.clone());
    }
    for _ in 0..3 {
        for text in [&text, &other] {
            assert_eq!(client.verify(text).await.unwrap(), Verdict::Valid);
        }
    }
    client.revoke(&ids[1]).await.unwrap();
    assert_eq!(client.verify(&text).await.unwrap(), Verdict::Revoked);
    let log = cluster.instance(0).output();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("one text names several keys"))
        .collect();
    let [warning] = warnings[..] else {
        panic!("{log}");
    };
    assert!(ids.iter().all(|id| warning.contains(id)), "{warning}");
    assert!(!log.contains(&text) && !log.contains(&other));
}

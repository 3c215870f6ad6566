//! Imported keys on several instances with Redis. They are imported again, under every scheme, as soon as
//! they have ended, while an instance is killed and Redis is emptied.

use keyward_testkit::{Cluster, Load, Options, Redis};

use super::Plan;

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

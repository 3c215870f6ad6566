//! The story with two instances and Postgres. An instance that stops or dies during a Revoke delays
//! it, but changes nothing else.

use std::path::Path;

use keyward_testkit::{Cluster, Front, FrontOptions, Options};

use super::actor::Actor;
use super::whole::{assert_one_lives, refused};

/// What happens to an instance before the person confirms.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Stop,
    Kill,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flow_completes_when_one_of_two_instances_stops_or_dies() {
    for (id, loss) in (1001..).zip([Loss::Nothing, Loss::Stop, Loss::Kill]) {
        let mut cluster = Cluster::start(crate::BINARY, 2, Options::default());
        let instances = vec![cluster.grpc(0), cluster.grpc(1)];
        let front = Front::start(FrontOptions {
            for_bot: instances.clone(),
            for_api: instances,
            admin_token: cluster.directory().join(Path::new("init/admin.token")),
            bot: Vec::new(),
        });
        let actor = Actor::english(&front, id);
        let (old, ask) = actor.ask().await;
        assert_eq!(front.request(&old).await.status, 200);
        match loss {
            Loss::Nothing => {}
            Loss::Stop => cluster.stop(0),
            Loss::Kill => cluster.kill(0),
        }
        actor.confirm(&ask);
        actor.confirm(&ask);
        let (new, _) = actor.retries_until_another_key(&front, &old).await;
        // Every remaining instance refuses the key at once. The API calls them in turn.
        for _ in 0..4 {
            refused(&front, &old).await;
        }
        front.telegram.settled().await;
        let client = cluster.client(1).await;
        assert_one_lives(&front, &client, &actor, &new, &[&old]).await;
    }
}

//! The story on two instances and a Postgres, while one instance leaves or is killed.

use std::path::Path;

use keyward_testkit::{Cluster, Front, FrontOptions, Options};

use super::actor::Actor;
use super::whole::{assert_one_lives, refused};

/// What happens to an instance while the person is asked.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Stop,
    Kill,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flow_on_two_instances_with_one_that_leaves_or_dies() {
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
        let (new, _) = actor.goes_on_to_another_key(&front, &old).await;
        // At once, at every instance that is left: the API asks them in turn.
        for _ in 0..4 {
            refused(&front, &old).await;
        }
        front.telegram.settled().await;
        let client = cluster.client(1).await;
        assert_one_lives(&front, &client, &actor, &new, &[&old]).await;
    }
}

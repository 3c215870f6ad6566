//! Several keys that one text names: a call means the oldest.

use std::time::Duration;

use keyward_core::key::KeyId;
use keyward_store::{KeyTarget, Revocation};

use crate::world::World;

pub(crate) async fn the_oldest_is_read(world: World) {
    let new = [(); 3].map(|()| world.plain_key("42", &world.successor().id.to_string()));
    let mut keys = Vec::new();
    // Not in the order of the ids.
    for at in [1, 2, 0] {
        keys.push(world.issue(new[at].clone()).await);
    }
    keys.sort_unstable_by_key(|key| key.id);
    let digest = |id: KeyId| new.iter().find(|new| new.id == id).unwrap().digest;
    for (asked, oldest) in [(&keys[..], 0), (&keys[1..], 1), (&keys[2..], 2)] {
        let mut digests: Vec<_> = asked.iter().map(|key| digest(key.id)).collect();
        digests.push(world.digest());
        for _ in 0..digests.len() {
            digests.rotate_left(1);
            let target = KeyTarget::Digests(digests.clone());
            let got = world.store.get_key(&target).await.unwrap().unwrap();
            assert_eq!(got.record, keys[oldest]);
        }
    }
    let none = KeyTarget::Digests(Vec::new());
    assert!(world.store.get_key(&none).await.unwrap().is_none());
}

pub(crate) async fn the_oldest_is_revoked(world: World) {
    let (older, newer) = (world.plain_key("1", "a"), world.plain_key("2", "b"));
    assert!(older.id < newer.id);
    let (other, key) = (
        world.issue(newer.clone()).await,
        world.issue(older.clone()).await,
    );
    let by_text = || Revocation::Key {
        target: KeyTarget::Digests(vec![newer.digest, world.digest(), older.digest]),
        successor: None,
        grace: Duration::ZERO,
        reason: None,
    };
    let (first, second) = tokio::join!(world.revoke(by_text()), world.revoke(by_text()));
    let again = world.revoke(by_text()).await;
    for revoked in [&first, &second, &again] {
        assert_eq!((revoked.keys[0].id, revoked.count), (key.id, 1));
        assert_eq!(revoked.committed.revision, 1);
    }
    assert_eq!(world.record(other.id).await, other);
}

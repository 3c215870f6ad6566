//! Changes by hand, each of which the chain shows.

use keyward_store::audit_chain::{Fault, FaultKind};

use super::{three_seals, unguarded, verify};
use crate::world::World;

/// A change by hand, and the fault that it must show: its kind, its event, its place and its seal.
type Planted = (&'static str, FaultKind, i64, i64, i64);

#[rustfmt::skip]
const PLANTED: &[Planted] = &[
    // Each column of an event.
    ("UPDATE audit SET id = 1006 WHERE position = 6", FaultKind::EventAltered, 1006, 6, 2),
    ("UPDATE audit SET time = {later} WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET actor_id = subject_id WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET actor_id = NULL WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET actor = 'nobody' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET action = 'issue' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET subject_id = actor_id WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET account_id = '43' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET account_id = NULL WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET detail = 'number 7' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET detail = '' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET peer = client WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET client = NULL WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET request_id = 'x' WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET salt = mac WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET salt = NULL WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET personal = mac WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET mac = personal WHERE position = 6", FaultKind::EventAltered, 6, 6, 2),
    ("UPDATE audit SET position = 60 WHERE position = 6", FaultKind::EventRemoved, 0, 6, 2),
    // Places and rows.
    ("UPDATE audit SET position = 99 WHERE position = 6; UPDATE audit SET position = 6 WHERE position = 7;
      UPDATE audit SET position = 7 WHERE position = 99", FaultKind::EventAltered, 7, 6, 2),
    ("UPDATE audit SET position = NULL, salt = NULL, personal = NULL, mac = NULL WHERE position = 6",
     FaultKind::EventRemoved, 0, 6, 2),
    ("DELETE FROM audit WHERE position = 1", FaultKind::EventRemoved, 0, 1, 1),
    ("DELETE FROM audit WHERE position = 6", FaultKind::EventRemoved, 0, 6, 2),
    ("DELETE FROM audit WHERE position = 12", FaultKind::EventRemoved, 0, 12, 3),
    ("DELETE FROM audit WHERE position > 8", FaultKind::EventRemoved, 0, 9, 3),
    ("DELETE FROM audit", FaultKind::EventRemoved, 0, 1, 1),
    ("DELETE FROM audit WHERE position = 6; UPDATE audit SET position = position - 1 WHERE position = 7;
      UPDATE audit SET position = position - 1 WHERE position = 8", FaultKind::EventAltered, 7, 6, 2),
    ("INSERT INTO audit (id, time, actor, action) SELECT 1006, time, 'nobody', 'issue' FROM audit
       WHERE position = 6", FaultKind::EventInserted, 1006, 0, 0),
    ("INSERT INTO audit (id, time, actor, action, position, personal, mac)
      SELECT 1013, time, 'nobody', 'issue', 13, personal, mac FROM audit WHERE position = 12",
     FaultKind::EventInserted, 1013, 13, 0),
    // Seals.
    ("UPDATE audit_seals SET number = 20 WHERE number = 2", FaultKind::SealRemoved, 0, 0, 2),
    ("UPDATE audit_seals SET time = {later} WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET last_position = 7 WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET last_event = (SELECT mac FROM audit WHERE position = 7) WHERE number = 2",
     FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET complete = NOT complete WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET key_version = 2 WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET key_version = 3 WHERE number = 2", FaultKind::KeyMissing, 0, 0, 2),
    ("UPDATE audit_seals SET previous = mac WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("UPDATE audit_seals SET mac = previous WHERE number = 2", FaultKind::SealAltered, 0, 0, 2),
    ("DELETE FROM audit_seals WHERE number = 1", FaultKind::BeginningCut, 0, 0, 2),
    ("DELETE FROM audit_seals WHERE number = 2", FaultKind::SealRemoved, 0, 0, 2),
    ("DELETE FROM audit_seals WHERE number = 3", FaultKind::EventInserted, 9, 9, 0),
    ("DELETE FROM audit_seals WHERE number = 1; DELETE FROM audit WHERE position < 8;
      UPDATE audit_state SET first_seal = 2, proof = (SELECT mac FROM audit WHERE position = 8)",
     FaultKind::BeginningCut, 0, 0, 2),
    ("UPDATE audit_seals SET number = 99 WHERE number = 1; UPDATE audit_seals SET number = 1 WHERE number = 2;
      UPDATE audit_seals SET number = 2 WHERE number = 99", FaultKind::SealAltered, 0, 0, 1),
];

pub(crate) async fn each_planted_change_is_found(world: World) {
    three_seals(&world).await;
    unguarded(&world).await;
    let tables = ["audit", "audit_seals", "audit_state"];
    for table in tables {
        world
            .by_hand(&format!(
                "CREATE TABLE {table}_copy AS SELECT * FROM {table}"
            ))
            .await;
    }
    assert_eq!(verify(&world).await.fault, None);
    for (sql, kind, event, position, seal) in PLANTED {
        let sql = sql.replace("{later}", &world.a_tick_after("time"));
        world.by_hand(&sql).await;
        let present = |number: &i64| Some(*number).filter(|number| *number != 0);
        let expected = Fault {
            kind: *kind,
            event: present(event),
            position: present(position),
            seal: present(seal),
        };
        let found = verify(&world).await;
        // Without its salt an event looks erased. The service looks for the erasure.
        let unproven = found.erased.first().map(|(fault, _)| fault.clone());
        assert_eq!(found.fault.or(unproven), Some(expected), "{sql}");
        for table in tables {
            let restore =
                format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {table}_copy");
            world.by_hand(&restore).await;
        }
        assert_eq!(verify(&world).await.fault, None, "restored after {sql}");
    }
    // What no check finds without a noted head: the last seal is gone with its events.
    world
        .by_hand("DELETE FROM audit WHERE position > 8; DELETE FROM audit_seals WHERE number = 3")
        .await;
    let found = verify(&world).await;
    assert_eq!((found.fault, found.last.unwrap().number), (None, 2));
}

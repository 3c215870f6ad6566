//! Tests of the limits of a connection and of all.

use keyward_ops::Metrics;

use super::*;

const TOTAL: usize = 16 << 20;

fn reserve(peer: &Arc<Peer>, bytes: usize) -> Result<Reservation, LimitError> {
    let mut reservation = peer.reservation();
    reservation.grow(bytes).map(|()| reservation)
}

fn peers(connections: usize) -> Arc<Peers> {
    let limits = Limits {
        connections,
        buffered: TOTAL,
    };
    Peers::new(limits, Metrics::new(&[]).ports.limits.clone())
}

fn caller(peers: &Arc<Peers>) -> Arc<Peer> {
    let peer = peers.admit(None).unwrap();
    peer.has_caller();
    peer
}

#[test]
fn the_oldest_stranger_makes_room_and_a_caller_does_not() {
    let peers = peers(3);
    let caller = caller(&peers);
    let (old, young) = (peers.admit(None).unwrap(), peers.admit(None).unwrap());
    let new = peers.admit(None).unwrap();
    assert!(old.is_displaced() && !young.is_displaced() && !caller.is_displaced());
    // A displaced connection that shows a caller gets no place back.
    old.has_caller();
    drop(old);
    young.has_caller();
    new.has_caller();
    assert!(peers.admit(None).is_none(), "three callers fill all places");
    drop((caller, young, new));
    let admitted = peers.admitted.lock();
    assert_eq!((admitted.strangers.len(), admitted.callers), (0, 0));
}

#[test]
fn a_short_call_passes_while_others_hold_the_total() {
    let peers = peers(100);
    let hoarders: Vec<_> = (0..CONNECTION_SHARE + 1).map(|_| caller(&peers)).collect();
    let mut held = Vec::new();
    let mut refused = 0;
    for hoarder in &hoarders {
        loop {
            match reserve(hoarder, 256 << 10) {
                Ok(reservation) => held.push(reservation),
                Err(LimitError::OverLimit(_)) => break refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(refused, hoarders.len());
    assert!(peers.buffered.load(Relaxed) <= TOTAL);
    let honest = caller(&peers);
    assert!(reserve(&honest, CALLER_ALLOWANCE).is_ok());
    assert!(reserve(&honest, CALLER_ALLOWANCE + (1 << 20)).is_err());
    let stranger = peers.admit(None).unwrap();
    assert!(reserve(&stranger, STRANGER_ALLOWANCE).is_ok());
    assert!(reserve(&stranger, STRANGER_ALLOWANCE + 1).is_err());
    drop(held);
    assert_eq!(peers.buffered.load(Relaxed), 0);
    assert!(reserve(&stranger, STRANGER_BYTES).is_ok());
    assert!(reserve(&stranger, STRANGER_BYTES + 1).is_err());
    assert_eq!(stranger.buffered.load(Relaxed), 0);
}

#[test]
fn a_stranger_that_becomes_a_caller_leaves_no_count_behind() {
    let peers = peers(1);
    let peer = peers.admit(None).unwrap();
    let before = reserve(&peer, 100 << 10).unwrap();
    peer.has_caller();
    let after = reserve(&peer, 100 << 10).unwrap();
    drop((before, after));
    assert_eq!(
        (peer.buffered.load(Relaxed), peers.buffered.load(Relaxed)),
        (0, 0)
    );
}

#[tokio::test]
async fn a_connection_whose_client_does_not_read_is_closed() {
    let peers = peers(1);
    let peer = peers.admit(None).unwrap();
    let _unread = peer.reserve_response(1);
    Arc::clone(&peer).must_close(Duration::from_millis(1)).await;
    assert_eq!(peers.metrics.connections_stalled.get(), 1);
}

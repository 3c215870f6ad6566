//! What this process has seen of the instances on its store, for people.

use std::time::Duration;

use keyward_core::fence::{Membership, RegistrationId, bound};
use keyward_core::key::BootTime;
use parking_lot::Mutex;

/// The instances of the last membership.
#[derive(Debug, Default)]
pub struct Roster(Mutex<Vec<Sighting>>);

/// One instance, as this process sees it.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Its registration.
    pub registration: RegistrationId,
    /// Whether it is this process.
    pub is_own: bool,
    /// The revision that it has acknowledged.
    pub acked: u64,
    /// How long a Revoke waits for it, if it does not respond.
    pub bound: Duration,
    /// When this process first saw the registration.
    pub first_seen: BootTime,
    /// When this process first saw its last heartbeat.
    pub last_heard: BootTime,
    heartbeat: u64,
}

impl Roster {
    /// Takes a membership whose read was answered at `answered_at`. `own` is the registration of this process.
    pub(super) fn observe(
        &self,
        membership: &Membership,
        own: Option<RegistrationId>,
        answered_at: BootTime,
    ) {
        let mut seen = self.0.lock();
        let members: Vec<_> = membership
            .members
            .iter()
            .map(|member| {
                let before = seen
                    .iter()
                    .find(|it| it.registration == member.registration);
                let silent = before.filter(|it| it.heartbeat == member.heartbeat);
                Sighting {
                    registration: member.registration,
                    is_own: Some(member.registration) == own,
                    acked: member.acked,
                    bound: bound(member.max_staleness),
                    first_seen: before.map_or(answered_at, |it| it.first_seen),
                    last_heard: silent.map_or(answered_at, |it| it.last_heard),
                    heartbeat: member.heartbeat,
                }
            })
            .collect();
        *seen = members;
    }

    /// The instances, the own one first.
    pub fn sightings(&self) -> Vec<Sighting> {
        let mut seen = self.0.lock().clone();
        seen.sort_by_key(|it| (!it.is_own, it.registration));
        seen
    }
}

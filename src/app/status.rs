//! The status page on the side port: what a person wants to know about this instance at a glance. It shows
//! no account, no address of a caller and no reason.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::fence::{Fence, Now, bound};
use keyward_ops::{Page, VERSION};
use serde_json::{Value, json};

use super::components::Base;
use crate::replication::Sighting;
use crate::service::RecentRevoke;

const HTML: &str = include_str!("status.html");

/// The page. `ready` is what `/readyz` reports.
pub(super) fn page(
    base: &Base,
    hosts: Vec<String>,
    ready: Arc<impl Fn() -> Result<String, String> + Send + Sync + 'static>,
) -> Page {
    let (fence, clock) = (Arc::clone(&base.fence), Arc::clone(&base.clock));
    let (recent, has_redis) = (Arc::clone(&base.recent), base.l2.is_some());
    let (roster, is_shared) = (Arc::clone(&base.roster), base.cluster.is_some());
    let status = move || {
        let now = Now::read(&*clock);
        let ready = ready();
        let sightings = roster.sightings();
        let instances = match is_shared {
            true => sightings.iter().map(|it| instance(it, now)).collect(),
            false => vec![embedded(&fence)],
        };
        let age = fence.freshness_age(now);
        json!({
            "version": VERSION,
            "is_ready": ready.is_ok(),
            "state": ready.unwrap_or_else(|reason| reason),
            "age": age.map(seconds),
            "max_staleness": seconds(fence.max_staleness()),
            "applied": fence.applied(),
            "has_redis": has_redis,
            "instances": instances,
            "revokes": recent.latest().iter().map(revoke).collect::<Vec<_>>(),
        })
    };
    Page::new(HTML, hosts.into(), Box::new(status))
}

fn instance(seen: &Sighting, now: Now) -> Value {
    json!({
        // Enough to tell instances apart.
        "name": seen.registration.to_string()[..8],
        "is_own": seen.is_own,
        "acked": seen.acked,
        "bound": seconds(seen.bound),
        "known_for": seconds(now.boot.since(seen.first_seen)),
        "silent_for": seconds(now.boot.since(seen.last_heard)),
    })
}

/// The one instance of an embedded store.
fn embedded(fence: &Fence) -> Value {
    json!({
        "name": "embedded",
        "is_own": true,
        "acked": fence.applied(),
        "bound": seconds(bound(fence.max_staleness())),
    })
}

fn revoke(revoke: &RecentRevoke) -> Value {
    json!({
        "key_id": revoke.key.map(|id| id.to_string()),
        "count": revoke.count,
        "time": revoke.time.as_millis(),
        "waited": seconds(revoke.waited),
        "confirmed_instances": revoke.receipt.confirmed,
        "waited_out_instances": revoke.receipt.waited_out,
    })
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

//! Whether an agent can answer: for health checks of gRPC, and for the probe of the side port.

use std::time::Duration;

use keyward_client::near::NearCache;
use keyward_ops::Tasks;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic_health::server::HealthReporter;

use super::super::set_health;
use super::super::stop::end_watches_of_health;
use super::EXHAUSTED;

/// How often health checks learn whether the agent is ready.
const CHECK: Duration = Duration::from_millis(100);

/// Lets health checks say what the probe of the side port says.
pub(super) struct Health {
    pub(super) reporter: HealthReporter,
    following: JoinHandle<Option<()>>,
}

impl Health {
    pub(super) async fn follow(near: &NearCache, calls: bool, tasks: &Tasks) -> Self {
        let (near, reporter) = (near.clone(), HealthReporter::new());
        let mut reported = readiness(&near, calls).is_ok();
        set_health(&reporter, reported).await;
        let health = reporter.clone();
        let following = tasks.spawn("health", async move {
            loop {
                sleep(CHECK).await;
                let is_ready = readiness(&near, calls).is_ok();
                // Each report reaches the watching clients.
                if std::mem::replace(&mut reported, is_ready) != is_ready {
                    set_health(&health, is_ready).await;
                }
            }
        });
        Self {
            reporter,
            following,
        }
    }

    /// Sets NOT_SERVING, and ends the streams of health.
    pub(super) async fn stop(self) {
        self.following.abort();
        // The aborted task must not set SERVING after the next line.
        let _ = self.following.await;
        set_health(&self.reporter, false).await;
        end_watches_of_health(&self.reporter).await;
    }
}

/// Whether an agent can answer, perhaps with a warning, or why it cannot.
pub(super) fn readiness(near: &NearCache, calls: bool) -> Result<String, String> {
    if near.is_fresh() {
        return Ok("ok".to_owned());
    }
    let Some(error) = near.trouble() else {
        return Err("not fresh yet".to_owned());
    };
    // Keyward answers calls, and has no place for one more near-cache.
    match calls && error.reason.as_deref() == Some(EXHAUSTED) {
        true => Ok(format!("ok, but verifies by calls: {error}")),
        false => Err(format!("not fresh: {error}")),
    }
}

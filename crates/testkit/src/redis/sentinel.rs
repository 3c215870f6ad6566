//! A primary and a replica, and sentinels that make the one the other.

use crate::deadline::wait_until;

use super::{Kind, PATIENCE, Redis, RedisOptions};

/// By what name the sentinels know the primary.
const SERVICE: &str = "keyward";

/// After how many milliseconds without an answer a server is down. A promotion ends the sentinels'
/// connections, and they try again once a second: with less, they would take the new primary for
/// dead, and go back to the old one.
const DOWN_AFTER: u16 = 2000;

/// A primary with a replica, and sentinels that watch them. They call a server down after two
/// seconds without an answer.
pub struct RedisSentinel {
    // First, so that they do not see the others go.
    /// The sentinels.
    pub sentinels: Vec<Redis>,
    /// The primary at the start; see [`Self::current`].
    pub primary: Redis,
    /// The replica at the start.
    pub replica: Redis,
}

impl RedisSentinel {
    /// Starts them with one sentinel, which decides alone.
    pub fn start() -> Self {
        Self::with(1)
    }

    /// Starts them with so many sentinels, of which most must agree.
    pub fn with(sentinels: usize) -> Self {
        let primary = Redis::start();
        let replica = Redis::with(RedisOptions {
            replica_of: Some(("127.0.0.1".to_owned(), primary.port())),
            ..RedisOptions::default()
        });
        replica.wait_for_sync();
        let (port, quorum) = (primary.port(), sentinels / 2 + 1);
        let lines = [
            format!("sentinel monitor {SERVICE} 127.0.0.1 {port} {quorum}"),
            format!("sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}"),
            format!("sentinel failover-timeout {SERVICE} 5000"),
        ];
        let options = RedisOptions {
            lines: lines.to_vec(),
            ..RedisOptions::default()
        };
        let start = |_| Redis::run(Kind::Sentinel, options.clone());
        let set = Self {
            sentinels: (0..sentinels).map(start).collect(),
            primary,
            replica,
        };
        for sentinel in &set.sentinels {
            set.wait_until_it_knows_all(sentinel);
        }
        set
    }

    /// It could not make a replica the primary before.
    fn wait_until_it_knows_all(&self, sentinel: &Redis) {
        let others = (self.sentinels.len() - 1).to_string();
        wait_until("a sentinel knows all", PATIENCE, || {
            let primary = fields(sentinel, "MASTER");
            let replicas = fields(sentinel, "REPLICAS");
            value(&primary, "num-other-sentinels") == Some(&others)
                && value(&primary, "flags").map(String::as_str) == Some("master")
                && value(&replicas, "flags").map(String::as_str) == Some("slave")
                && value(&replicas, "master-link-status").map(String::as_str) == Some("ok")
        });
    }

    /// The URL: `redis+sentinel://127.0.0.1:PORT,.../keyward`.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self
            .sentinels
            .iter()
            .map(|sentinel| sentinel.address().to_string())
            .collect();
        format!("redis+sentinel://{}/{SERVICE}", addresses.join(","))
    }

    /// The server that all sentinels call the primary.
    ///
    /// # Panics
    ///
    /// When they do not agree.
    pub fn current(&self) -> &Redis {
        let current = [&self.primary, &self.replica]
            .into_iter()
            .find(|server| self.all_name(server));
        current.expect("the sentinels agree")
    }

    /// Whether all sentinels call this server the primary; one that does not run says nothing.
    fn all_name(&self, server: &Redis) -> bool {
        let mut running = self.sentinels.iter().filter(|one| one.is_running());
        running.all(|sentinel| {
            let asked = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            asked == Ok(format!("127.0.0.1\n{}", server.port()))
        })
    }

    /// Waits until `server` is the primary, and all sentinels say so.
    pub fn wait_for(&self, server: &Redis) {
        server.wait_for_role("master");
        wait_until("the sentinels name the primary", PATIENCE, || {
            self.all_name(server)
        });
    }

    /// Makes the other server the primary, and waits until it is: that server.
    pub fn failover(&self) -> &Redis {
        let next = if self.current().port() == self.primary.port() {
            &self.replica
        } else {
            &self.primary
        };
        let mut refusal = String::new();
        // A sentinel may not have heard from the replica for a moment.
        wait_until("a sentinel begins a failover", PATIENCE, || {
            match self.sentinels[0].try_command(&["SENTINEL", "FAILOVER", SERVICE]) {
                Ok(_) => true,
                Err(error) => {
                    refusal = error;
                    assert!(
                        refusal.starts_with("NOGOODSLAVE") || refusal.starts_with("INPROG"),
                        "no failover: {refusal}"
                    );
                    false
                }
            }
        });
        self.wait_for(next);
        next
    }
}

/// What a sentinel tells of the servers: names and values by turns.
fn fields(sentinel: &Redis, of: &str) -> Vec<String> {
    let told = sentinel.try_command(&["SENTINEL", of, SERVICE]);
    let told = told.unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

fn value<'a>(fields: &'a [String], name: &str) -> Option<&'a String> {
    let at = fields.iter().position(|field| field == name)?;
    fields.get(at + 1)
}

//! A primary, a replica, and the sentinels that promote the replica.

use crate::deadline::{PATIENCE, wait_until};

use super::{Kind, Redis, RedisOptions};

/// The sentinels' name for the primary.
const SERVICE: &str = "keyward";

/// The time without a response after which a server is down, in milliseconds. A promotion closes
/// the sentinels' connections, and they reconnect once a second. With a shorter time they would
/// consider the new primary down and promote the old one again.
const DOWN_AFTER: u16 = 2000;

/// A primary with a replica, and sentinels that watch both. They consider a server down after two
/// seconds without a response.
pub struct RedisSentinel {
    // Dropped first, so that the sentinels do not react to the end of the servers.
    /// The sentinels.
    pub sentinels: Vec<Redis>,
    /// The primary at the start; see [`Self::current`].
    pub primary: Redis,
    /// The replica at the start.
    pub replica: Redis,
}

impl RedisSentinel {
    /// Starts the servers with one sentinel, which decides alone.
    pub fn start() -> Self {
        Self::with(1)
    }

    /// Starts the servers with this number of sentinels, of which a majority must agree.
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

    /// Before this, the sentinel cannot promote the replica.
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

    /// The server that all sentinels name as the primary.
    ///
    /// # Panics
    ///
    /// The sentinels do not agree.
    pub fn current(&self) -> &Redis {
        let current = [&self.primary, &self.replica]
            .into_iter()
            .find(|server| self.all_name(server));
        current.expect("the sentinels agree")
    }

    /// Whether all running sentinels name this server as the primary.
    fn all_name(&self, server: &Redis) -> bool {
        let mut running = self.sentinels.iter().filter(|one| one.is_running());
        running.all(|sentinel| {
            let response = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]);
            response == Ok(format!("127.0.0.1\n{}", server.port()))
        })
    }

    /// Waits until `server` is the primary and all sentinels name it.
    pub fn wait_for(&self, server: &Redis) {
        server.wait_for_role("master");
        wait_until("the sentinels name the primary", PATIENCE, || {
            self.all_name(server)
        });
    }

    /// Promotes the other server, waits for the promotion, and returns that server.
    pub fn failover(&self) -> &Redis {
        let next = if self.current().port() == self.primary.port() {
            &self.replica
        } else {
            &self.primary
        };
        let mut refusal = String::new();
        // The sentinel may have no recent news from the replica, so try again.
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

/// The fields of a sentinel's response: names and values alternate.
fn fields(sentinel: &Redis, of: &str) -> Vec<String> {
    let response = sentinel.try_command(&["SENTINEL", of, SERVICE]);
    let response = response.unwrap_or_default();
    response.lines().map(str::to_owned).collect()
}

fn value<'a>(fields: &'a [String], name: &str) -> Option<&'a String> {
    let at = fields.iter().position(|field| field == name)?;
    fields.get(at + 1)
}

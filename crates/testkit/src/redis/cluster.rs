//! A cluster of three primaries.

use crate::deadline::{PATIENCE, wait_until};

use super::{Kind, Redis, RedisOptions};

/// The first and the last slot of each node.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// Three primaries without replicas, which share all slots. If one fails, the others continue to
/// serve their slots.
pub struct RedisCluster {
    /// The nodes, in the order of their slots.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the nodes and waits until each knows all slots.
    pub fn start() -> Self {
        let lines = [
            "cluster-config-file nodes.conf",
            "cluster-node-timeout 1000",
            "cluster-require-full-coverage no",
        ];
        let options = RedisOptions {
            lines: lines.map(str::to_owned).to_vec(),
            ..RedisOptions::default()
        };
        let nodes = SLOTS.map(|_| Redis::run(Kind::Node, options.clone()));
        let epochs = ["1", "2", "3"];
        for ((node, (first, last)), epoch) in nodes.iter().zip(SLOTS).zip(epochs) {
            // Different epochs, because nodes with equal epochs would have to resolve a conflict
            // first.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", epoch]);
            let (first, last) = (first.to_string(), last.to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        for node in &nodes[1..] {
            let (port, bus) = (node.port.to_string(), node.bus.to_string());
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self {
            nodes: nodes.into(),
        };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until each running node knows all other nodes and all slots, and serves.
    pub fn wait_until_whole(&self) {
        let whole = [
            "cluster_state:ok",
            "cluster_known_nodes:3",
            "cluster_slots_ok:16384",
        ];
        wait_until("the cluster is whole", PATIENCE, || {
            let mut running = self.nodes.iter().filter(|node| node.is_running());
            running.all(|node| {
                let info = node.try_command(&["CLUSTER", "INFO"]).unwrap_or_default();
                whole.iter().all(|line| info.lines().any(|is| is == *line))
            })
        });
    }

    /// The URL: `redis+cluster://127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.address().to_string())
            .collect();
        format!("redis+cluster://{}/", addresses.join(","))
    }

    /// The number of the node that serves a key.
    pub fn node_of(&self, key: &str) -> usize {
        let mut running = self.nodes.iter().filter(|node| node.is_running());
        let node = running.next().expect("a node runs");
        let slot: u16 = node
            .command(&["CLUSTER", "KEYSLOT", key])
            .parse()
            .expect("a slot is a number");
        let of = SLOTS.iter().position(|(_, last)| slot <= *last);
        of.expect("every slot is one of a node's")
    }
}

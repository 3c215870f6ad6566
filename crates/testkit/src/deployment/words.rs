//! Translates `deploy/compose.yaml` for this machine: paths, host names and ports of containers.

use std::collections::BTreeMap;
use std::path::Path;

use crate::ports::draw_port;
use crate::{Compose, Postgres, Redis};

/// The services that accept calls.
const INSTANCES: [&str; 3] = ["keyward-a", "keyward-b", "keyward-c"];

/// The ports of this machine for the services.
pub(super) struct Ports {
    pub(super) grpc: BTreeMap<&'static str, u16>,
    pub(super) http: BTreeMap<&'static str, u16>,
    pub(super) balancer: u16,
    bot: u16,
}

impl Ports {
    pub(super) fn draw() -> Self {
        Self {
            grpc: INSTANCES.map(|name| (name, draw_port())).into(),
            http: INSTANCES.map(|name| (name, draw_port())).into(),
            balancer: draw_port(),
            bot: draw_port(),
        }
    }
}

/// The translations from containers to this machine, longer texts first.
pub(super) struct Words(Vec<(String, String)>);

impl Words {
    /// The translations for a deployment in `home`.
    pub(super) fn new(
        home: &Path,
        keyward: &Path,
        compose: &Compose,
        ports: &Ports,
        postgres: &Postgres,
        redis: &Redis,
    ) -> Self {
        let mut words = vec![
            ("/usr/local/bin/keyward".to_owned(), keyward.to_path_buf()),
            ("/run/secrets".to_owned(), home.join("run")),
            (
                "/usr/local/etc/haproxy/haproxy.cfg".to_owned(),
                home.join("haproxy.cfg"),
            ),
        ];
        for service in compose.services().keys() {
            let mounts = compose.mounts(service).into_iter();
            let state = mounts.filter(|(source, _)| source.starts_with("./state/"));
            words.extend(state.map(|(source, target)| (target, home.join(&source[2..]))));
        }
        let mut words: Vec<(String, String)> = words
            .into_iter()
            .map(|(there, here)| (there, here.to_str().expect("a path is text").to_owned()))
            .collect();
        words.sort_by_key(|(there, _)| std::cmp::Reverse(there.len()));
        words.dedup();
        let balancer = ports.balancer;
        let mut say = |there: &str, here: String| words.push((there.to_owned(), here));
        say("@postgres/", format!("@localhost:{}/", postgres.port()));
        say("@redis:6379", format!("@localhost:{}", redis.port()));
        say("//balancer:50051", format!("//localhost:{balancer}"));
        say("bind :50051", format!("bind 127.0.0.1:{balancer}"));
        for name in INSTANCES {
            let (grpc, http) = (ports.grpc[name], ports.http[name]);
            say(
                &format!("{name}:50051 port 9464"),
                format!("127.0.0.1:{grpc} port {http}"),
            );
        }
        Self(words)
    }

    /// Adds a translation before the shorter texts that are its prefixes.
    pub(super) fn put_first(&mut self, there: &str, here: &Path) {
        let here = here.to_str().expect("a path is text").to_owned();
        self.0.insert(0, (there.to_owned(), here));
    }

    /// The translations of one service, with its own ports.
    pub(super) fn of(&self, service: &str, ports: &Ports) -> Self {
        let mut words = self.0.clone();
        let mut say = |there: &str, here: String| words.push((there.to_owned(), here));
        if let (Some(grpc), Some(http)) = (ports.grpc.get(service), ports.http.get(service)) {
            say("0.0.0.0:50051", format!("127.0.0.1:{grpc}"));
            say("localhost:50051", format!("localhost:{grpc}"));
            say("0.0.0.0:9464", format!("127.0.0.1:{http}"));
            say("0.0.0.0:50080", "127.0.0.1:0".to_owned());
        }
        match service {
            "bot" => say("0.0.0.0:9465", format!("127.0.0.1:{}", ports.bot)),
            "balancer" => say("127.0.0.1/50051", format!("127.0.0.1/{}", ports.balancer)),
            _ => {}
        }
        Self(words)
    }

    pub(super) fn say(&self, text: &str) -> String {
        let words = self.0.iter();
        words.fold(text.to_owned(), |text, (there, here)| {
            text.replace(there, here)
        })
    }
}

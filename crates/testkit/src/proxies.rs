//! Reverse proxies in front of an API, run from the samples in `deploy/proxies`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::files::{read, write};
use crate::guard::{Guard, KILL_ALL};
use crate::port_server::{PortServer, ROOT, program};
use crate::ports::draw_port;
use crate::process::without_settings;

/// What surrounds the `Caddyfile`: no API of Caddy, and no other address of this machine.
const CADDY: &str = "{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n";

/// A proxy with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// `nginx.conf`
    Nginx,
    /// `Caddyfile`
    Caddy,
    /// `haproxy.cfg` and `keyward.lua`
    HaProxy,
    /// `envoy.yaml`
    Envoy,
}

/// What replaces the placeholders of a sample.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Keyward's gRPC address.
    pub grpc: SocketAddr,
    /// The address of Keyward's JSON port.
    pub rest: SocketAddr,
    /// The address of the API.
    pub api: SocketAddr,
    /// The token of the proxy.
    pub token: String,
    /// The network of the load balancers in front of the proxy.
    pub balancer: Option<String>,
}

impl ProxyKind {
    /// Starts the proxy. Call this on a thread that outlives it: Envoy ends with the thread that starts
    /// it.
    ///
    /// # Panics
    ///
    /// This machine lacks the proxy, it does not start, or its sample lacks a placeholder.
    pub fn start(self, options: &ProxyOptions) -> PortServer {
        let guard = Guard::new("api-proxy", KILL_ALL);
        let home = guard.home();
        let token = &options.token;
        fs::create_dir(home.join("proxies")).expect("a directory can be made");
        write(&home.join("proxies/keyward-token"), token);
        let line = format!("proxy_set_header x-keyward-token \"{token}\";\n");
        write(&home.join("keyward-token.conf"), &line);
        PortServer::start(&format!("{self:?}"), guard, |home, port| {
            self.write_samples(home, options, port);
            let mut command = self.command(home);
            command.env("KEYWARD_TOKEN", token);
            command
        })
    }

    /// Its files in `deploy/proxies`.
    fn samples(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx.conf"],
            Self::Caddy => &["Caddyfile"],
            Self::HaProxy => &["haproxy.cfg", "keyward.lua"],
            Self::Envoy => &["envoy.yaml"],
        }
    }

    /// The placeholders of its samples, and what replaces them.
    fn words(self, home: &Path, options: &ProxyOptions, port: u16) -> Vec<(&'static str, String)> {
        let ProxyOptions {
            grpc, rest, api, ..
        } = options;
        let home = home.to_str().expect("a path is text");
        let mut words = match self {
            Self::Nginx => vec![
                ("/etc/nginx", home.to_owned()),
                ("listen 8080", format!("listen 127.0.0.1:{port}")),
            ],
            Self::Caddy => vec![("\n:8080 {", format!("\nhttp://:{port} {{"))],
            Self::HaProxy => vec![
                ("/etc/haproxy", format!("{home}/proxies")),
                ("bind :8080", format!("bind 127.0.0.1:{port}")),
                ("127.0.0.1:50081", format!("127.0.0.1:{}", draw_port())),
            ],
            Self::Envoy => {
                let address = |port| format!("address: 127.0.0.1, port_value: {port}");
                return vec![
                    ("address: 0.0.0.0, port_value: 8080", address(port)),
                    (
                        "address: 127.0.0.1, port_value: 50051",
                        address(grpc.port()),
                    ),
                    ("address: 127.0.0.1, port_value: 3000", address(api.port())),
                ];
            }
        };
        words.push(("127.0.0.1:50080", rest.to_string()));
        words.push(("127.0.0.1:3000", api.to_string()));
        words
    }

    /// What to replace in the sample behind load balancers of `NETWORK`, and by what, as
    /// `deploy/proxies/README.md` says.
    fn balanced(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nginx => &[("$remote_addr", "$proxy_add_x_forwarded_for")],
            Self::Caddy => &[
                (
                    "\t\turi {args.0}\n",
                    "\t\turi {args.0}\n\t\ttrusted_proxies NETWORK\n",
                ),
                (
                    "\t\theader_up -Apikey\n",
                    "\t\theader_up -Apikey\n\t\ttrusted_proxies NETWORK\n",
                ),
            ],
            Self::HaProxy => &[(
                "    http-request set-header x-forwarded-for",
                "    http-request set-src req.hdr_ip(x-forwarded-for,-1) if { src NETWORK }\n    \
                 http-request set-header x-forwarded-for",
            )],
            Self::Envoy => &[("                        - remove: x-forwarded-for\n", "")],
        }
    }

    /// Writes its samples, with their placeholders replaced, to the directory `proxies` of `home`, and
    /// the file that includes them.
    fn write_samples(self, home: &Path, options: &ProxyOptions, port: u16) {
        let root = Path::new(ROOT);
        let text = |name: &&str| read(&root.join("deploy/proxies").join(name));
        let mut texts: Vec<String> = self.samples().iter().map(text).collect();
        for (word, replacement) in self.words(home, options, port) {
            let found = texts.iter().any(|text| text.contains(word));
            assert!(found, "the samples of {self:?} lack {word:?}");
            for text in &mut texts {
                *text = text.replace(word, &replacement);
            }
        }
        if let Some(network) = &options.balancer {
            let readme = read(&root.join("deploy/proxies/README.md"));
            for (old, new) in self.balanced() {
                let added = new.lines().find(|line| !old.contains(line));
                let words = added.unwrap_or(old).trim();
                assert!(
                    readme.contains(&format!("`{words}`")),
                    "the README lacks {words:?}"
                );
                assert!(
                    texts[0].contains(old),
                    "the sample of {self:?} lacks {old:?}"
                );
                texts[0] = texts[0].replace(old, &new.replace("NETWORK", network));
            }
        }
        match self {
            Self::Nginx => {
                let outer = read(&root.join("tests/e2e/proxies/nginx.conf"));
                fs::write(home.join("nginx.conf"), outer).expect("a file can be written");
            }
            Self::Caddy => texts[0].insert_str(0, CADDY),
            Self::HaProxy | Self::Envoy => {}
        }
        for (name, text) in self.samples().iter().zip(texts) {
            fs::write(home.join("proxies").join(name), text).expect("a file can be written");
        }
    }

    /// The command that runs it in `home`.
    fn command(self, home: &Path) -> Command {
        let (name, words) = match self {
            Self::Nginx => ("nginx", "-p . -c nginx.conf -e stderr"),
            Self::Caddy => (
                "caddy",
                "run --adapter caddyfile --config proxies/Caddyfile",
            ),
            Self::HaProxy => ("haproxy", "-db -f proxies/haproxy.cfg"),
            Self::Envoy => (
                "envoy",
                "-c proxies/envoy.yaml --use-dynamic-base-id --concurrency 1 --log-level error",
            ),
        };
        let mut command = without_settings(program(name));
        // Caddy keeps its state there.
        command
            .args(words.split(' '))
            .env("XDG_CONFIG_HOME", home)
            .env("XDG_DATA_HOME", home);
        command
    }
}

//! Loads a server on core 0 with `h2load` on core 1.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use keyward_testkit::machine::{Times, cpu_time};
use prost::Message;

/// The connections of the load.
const CONNECTIONS: u32 = 8;

/// One kind of call to one server.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// The scheme, the server's address, and the id of its process.
    pub(crate) server: (&'static str, SocketAddr, u32),
    pub(crate) method: &'static str,
    /// The verified keys of one call.
    pub(crate) keys: u32,
    pub(crate) token: String,
    body: tempfile::NamedTempFile,
}

impl Call {
    pub(crate) fn new(
        name: &'static str,
        server: (&'static str, SocketAddr, u32),
        (method, keys): (&'static str, u32),
        token: &str,
        message: &impl Message,
    ) -> Self {
        let message = message.encode_to_vec();
        let mut body = tempfile::NamedTempFile::new().unwrap();
        let length = u32::try_from(message.len()).unwrap();
        body.write_all(&[&[0], &length.to_be_bytes()[..], &message].concat())
            .unwrap();
        Self {
            name,
            server,
            method,
            keys,
            token: token.to_owned(),
            body,
        }
    }

    /// Makes `calls` calls as fast as the server answers. Returns the microseconds of the server's CPU
    /// for each key, and the keys in a second.
    pub(crate) fn saturate(&self, calls: u32) -> (f64, f64) {
        let keys = f64::from(self.keys);
        let before = cpu_time(self.server.2);
        let text = self.load(calls, &["-m32"]);
        let used = (cpu_time(self.server.2) - before).as_secs_f64() * 1e6;
        let rate = text.split(" req/s").next().unwrap();
        let rate: f64 = rate.rsplit(' ').next().unwrap().parse().unwrap();
        (used / (f64::from(calls) * keys), rate * keys)
    }

    /// Makes `calls` calls at `rate` calls in a second. Returns how long each took.
    pub(crate) fn at_rate(&self, calls: u32, rate: f64) -> Times {
        let log = tempfile::NamedTempFile::new().unwrap();
        let rate = format!("--rps={}", rate / f64::from(CONNECTIONS));
        let file = format!("--log-file={}", log.path().display());
        self.load(calls, &["-m100", &rate, &file]);
        let log = std::fs::read_to_string(log.path()).unwrap();
        let micros = |line: &str| line.rsplit('\t').next().unwrap().parse().unwrap();
        let times = log
            .lines()
            .map(|line| std::time::Duration::from_micros(micros(line)));
        Times(times.collect())
    }

    /// The output of `h2load`, whose calls must all succeed.
    fn load(&self, calls: u32, arguments: &[&str]) -> String {
        let (scheme, address, _) = self.server;
        let output = Command::new("taskset")
            .args(["-c", "1", "h2load", "-t1"])
            .args([&format!("-c{CONNECTIONS}"), &format!("-n{calls}"), "-d"])
            .arg(self.body.path())
            .args(arguments)
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("authorization: Bearer {}", self.token)])
            .arg(format!(
                "{scheme}://{address}/keyward.v1.ApiKeyService/{}",
                self.method
            ))
            .output()
            .expect("h2load runs; it is in Debian's package nghttp2-client");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!(" {calls} succeeded")), "{text}");
        text
    }
}

/// The middle one of some figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

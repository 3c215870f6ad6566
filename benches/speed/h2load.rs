//! Loads a server on core 0 with `h2load` on core 1.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use keyward_testkit::machine::{Times, cpu_time};
use prost::Message;

use super::{ROUNDS, WARM_UP};

/// The connections of the load.
const CONNECTIONS: u32 = 8;
/// The connections of HTTP/1.1, each with one request at a time.
const CONNECTIONS_OF_HTTP1: u32 = 32;

/// The scheme, the server's address, and the id of its process.
pub(crate) type Target = (&'static str, SocketAddr, u32);

/// One kind of call to one server.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    server: Target,
    path: String,
    /// The verified keys of one call.
    pub(crate) keys: u32,
    headers: Vec<String>,
    /// The body of a POST. Without it the call is a GET.
    body: Option<tempfile::NamedTempFile>,
    is_http1: bool,
    /// The Unix socket of the server, if it has one.
    socket: Option<String>,
}

impl Call {
    /// A call of gRPC.
    pub(crate) fn grpc(
        name: &'static str,
        server: Target,
        (path, keys): (&str, u32),
        token: &str,
        message: &impl Message,
    ) -> Self {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
        let token = format!("authorization: Bearer {token}");
        let headers = ["content-type: application/grpc", "te: trailers", &token];
        Self {
            keys,
            is_http1: false,
            ..Self::http1(name, server, path, &headers, Some(&framed))
        }
    }

    /// A request by HTTP/1.1.
    pub(crate) fn http1(
        name: &'static str,
        server: Target,
        path: &str,
        headers: &[&str],
        body: Option<&[u8]>,
    ) -> Self {
        let body = body.map(|body| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(body).unwrap();
            file
        });
        Self {
            name,
            server,
            path: path.to_owned(),
            keys: 1,
            headers: headers.iter().map(ToString::to_string).collect(),
            body,
            is_http1: true,
            socket: None,
        }
    }

    /// The same over a Unix socket.
    pub(crate) fn over_socket(self, path: &str) -> Self {
        Self {
            socket: Some(format!("--base-uri=unix:{path}")),
            ..self
        }
    }

    /// The same without a token.
    pub(crate) fn without_token(mut self) -> Self {
        self.headers
            .retain(|header| !header.starts_with("authorization"));
        self
    }

    /// The same by HTTP/2.
    pub(crate) fn over_http2(self) -> Self {
        Self {
            is_http1: false,
            ..self
        }
    }

    /// Makes `calls` calls as fast as the server answers. Returns the microseconds of the server's CPU
    /// for each key, and the keys in a second.
    pub(crate) fn saturate(&self, calls: u32) -> (f64, f64) {
        let keys = f64::from(self.keys);
        let before = cpu_time(self.server.2);
        let text = match self.is_http1 {
            true => self.load(calls, CONNECTIONS_OF_HTTP1, &["--h1"]),
            false => self.load(calls, CONNECTIONS, &["-m32"]),
        };
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
        self.load(calls, CONNECTIONS, &["-m100", &rate, &file]);
        let log = std::fs::read_to_string(log.path()).unwrap();
        let micros = |line: &str| line.rsplit('\t').next().unwrap().parse().unwrap();
        let times = log
            .lines()
            .map(|line| std::time::Duration::from_micros(micros(line)));
        Times(times.collect())
    }

    /// The output of `h2load`, whose calls must all succeed.
    fn load(&self, calls: u32, connections: u32, arguments: &[&str]) -> String {
        let (scheme, address, _) = self.server;
        let body = self.body.iter().map(tempfile::NamedTempFile::path);
        let headers = self.headers.iter().flat_map(|header| ["-H", header]);
        let output = Command::new("taskset")
            .args(["-c", "1", "h2load", "-t1"])
            .args([format!("-c{connections}"), format!("-n{calls}")])
            .args(body.flat_map(|path| [OsStr::new("-d"), path.as_os_str()]))
            .args(arguments)
            .args(headers)
            .args(&self.socket)
            .arg(format!("{scheme}://{address}{}", self.path))
            .output()
            .expect("h2load runs; it is in Debian's package nghttp2-client");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!(" {calls} succeeded")), "{text}");
        text
    }
}

/// What each call costs, in microseconds of CPU for each key and keys in a second: the medians of rounds of
/// `keys` keys, in which the calls take turns.
pub(crate) fn costs(calls: &[Call], keys: u32) -> Vec<(f64, f64)> {
    let mut rounds = vec![Vec::new(); calls.len()];
    for _ in 0..ROUNDS {
        for (call, rounds) in calls.iter().zip(&mut rounds) {
            call.saturate(keys / WARM_UP / call.keys);
            rounds.push(call.saturate(keys / call.keys));
        }
    }
    let medians = rounds.iter().map(|rounds| {
        let cpu = median(rounds.iter().map(|round| round.0));
        (cpu, median(rounds.iter().map(|round| round.1)))
    });
    medians.collect()
}

/// The middle one of some figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

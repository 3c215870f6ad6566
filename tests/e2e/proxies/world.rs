//! Keyward, a proxy, and an API that answers with what it received.

use std::net::SocketAddr;

use axum::Router;
use axum::http::{HeaderMap, Method, Uri};
use keyward_proto::v1::{IssueRequest, Role};
use keyward_testkit::requests::slot;
use keyward_testkit::{
    Client, HttpAnswer, PATIENCE, PortServer, Process, ProxyKind, ProxyOptions, eventually,
    http_ask, without_settings,
};

pub(super) const ORIGIN: (&str, &str) = ("origin", "https://app.example");
pub(super) const PREFLIGHT: [(&str, &str); 2] = [ORIGIN, ("access-control-request-method", "POST")];

pub(super) struct World {
    pub(super) kind: ProxyKind,
    pub(super) proxy: PortServer,
    pub(super) options: ProxyOptions,
    pub(super) keyward: Process,
    /// A client of Keyward with every role.
    pub(super) admin: Client,
    directory: tempfile::TempDir,
    /// Keyward's setting `trusted_proxies`.
    trusted: String,
}

/// What the API received.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// Names as some APIs read them: in lower case, with dashes only.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// All of it.
    pub(super) text: String,
}

impl World {
    pub(super) async fn start(kind: ProxyKind) -> Self {
        Self::start_behind(kind, None).await
    }

    /// With load balancers of the network `balancer` in front of the proxy.
    pub(super) async fn start_behind(kind: ProxyKind, balancer: Option<&str>) -> Self {
        let (directory, data) = crate::fresh_directory();
        let trusted = balancer.unwrap_or("none").to_owned();
        let mut command = Process::command(crate::BINARY, &data);
        command.args(["--trusted-proxies", &trusted]);
        let keyward = Process::start(command, &data);
        let admin = keyward.client().await;
        let token = admin.token("proxy", &[Role::Verifier]).await.unwrap();
        let options = ProxyOptions {
            grpc: keyward.grpc,
            rest: keyward.rest.unwrap(),
            api: serve_api().await,
            token,
            balancer: balancer.map(str::to_owned),
        };
        Self {
            kind,
            proxy: kind.start(&options),
            options,
            keyward,
            admin,
            directory,
            trusted,
        }
    }

    /// Starts Keyward again, on the same addresses.
    pub(super) fn start_again(&mut self) {
        let data = self.directory.path().join("data");
        let (grpc, rest) = (self.options.grpc.to_string(), self.options.rest.to_string());
        let mut command = without_settings(crate::BINARY);
        command
            .args(["serve", "--listen", &grpc, "--rest-listen", &rest])
            .args(["--http-listen", "127.0.0.1:0"])
            .args(["--trusted-proxies", &self.trusted, "--data-dir"])
            .arg(&data);
        self.keyward = Process::start(command, &data);
    }

    /// Makes Keyward trust what Envoy appends to `x-forwarded-for`: for a peer on the loopback interface it is
    /// another address of the machine.
    pub(super) async fn trust_what_envoy_appends(&mut self) {
        let key = self.issue("40", "", "").await.1;
        let appended = self.pass(&[("apikey", &key)]).await;
        let appended = appended.header("x-forwarded-for");
        self.trusted = format!("{},{appended}", self.trusted);
        assert!(self.keyward.stop().success());
        self.start_again();
        let passes = async || self.ask("GET", "/", &[("apikey", &key)]).await.status == 200;
        eventually("the key passes again", PATIENCE, passes).await;
    }

    /// Issues the key of an account. "" means no scope, or no range. Returns its ID and its text.
    pub(super) async fn issue(&self, account: &str, scope: &str, cidr: &str) -> (String, String) {
        let some = |text: &str| match text {
            "" => vec![],
            text => vec![text.to_owned()],
        };
        self.issue_key(IssueRequest {
            scopes: some(scope),
            allowed_cidrs: some(cidr),
            ..slot(account)
        })
        .await
    }

    /// Issues a key. Returns its ID and its text.
    pub(super) async fn issue_key(&self, request: IssueRequest) -> (String, String) {
        let issued = self.admin.send(request).await.unwrap();
        (issued.key.unwrap().key_id, issued.api_key)
    }

    /// Sends a request to the proxy.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> HttpAnswer {
        let ask = http_ask(self.proxy.address(), method, path, headers, "");
        let reply = tokio::time::timeout(PATIENCE, ask).await;
        reply
            .unwrap_or_else(|_| panic!("{method} {path} {headers:?}: no answer"))
            .unwrap_or_else(|error| panic!("{method} {path} {headers:?}: {error}"))
    }

    /// Sends a GET that must reach the API.
    pub(super) async fn pass(&self, headers: &[(&str, &str)]) -> Seen {
        self.seen(&self.ask("GET", "/", headers).await)
    }

    /// What the API received of a request that it answered. It received neither the key nor the token.
    pub(super) fn seen(&self, reply: &HttpAnswer) -> Seen {
        assert_eq!(reply.status, 200, "{reply:?}");
        let text = &reply.body;
        for secret in ["kw_", &*self.options.token] {
            assert!(!text.contains(secret), "{text}");
        }
        let (head, body) = text.split_once("\n\n").unwrap();
        let (first, lines) = head.split_once('\n').unwrap();
        let (method, path) = first.split_once(' ').unwrap();
        let headers = lines.lines().map(|line| line.split_once(": ").unwrap());
        Seen {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers
                .map(|(name, value)| {
                    let is_other = |byte: char| !byte.is_ascii_alphanumeric();
                    (name.to_lowercase().replace(is_other, "-"), value.to_owned())
                })
                .collect(),
            body: body.to_owned(),
            text: text.clone(),
        }
    }
}

impl Seen {
    /// All values of a header; "" if there is none.
    pub(super) fn header(&self, name: &str) -> String {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        let values: Vec<_> = found.map(|(_, value)| value.as_str()).collect();
        values.join(", ")
    }
}

/// Serves the API until the runtime ends.
async fn serve_api() -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = tokio::net::TcpListener::bind(any).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(echo);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Answers with the request line, the headers, an empty line and the body.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: String) -> String {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    format!("{method} {uri}\n{}\n{body}", headers.collect::<String>())
}

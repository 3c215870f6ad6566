//! What clients send to deceive a proxy.

use keyward_testkit::{ProxyKind, http_ask};

use super::world::World;

/// What a client says about itself, with a name that some APIs read as one of Keyward's.
const FORGED: [(&str, &str); 23] = [
    ("x-keyward-key-id", "forged"),
    ("X-Keyward-Account-Id", "forged"),
    ("X-KEYWARD-NAME", "forged"),
    ("x-keyward-name", "forged"),
    ("x-keyward-scopes", "forged"),
    ("x-keyward-metadata", "forged"),
    ("x-keyward-token", "forged"),
    ("x_keyward_account_id", "forged"),
    ("X_Keyward-Name", "forged"),
    ("x-keyward_scopes", "forged"),
    ("x.keyward.name", "forged"),
    ("x+keyward+account+id", "forged"),
    ("x~keyward~name", "forged"),
    ("X!Keyward-Scopes", "forged"),
    ("x#keyward-metadata", "forged"),
    ("x-keyward$name", "forged"),
    ("x%keyward-name", "forged"),
    ("x-keyward&name", "forged"),
    ("x'keyward'name", "forged"),
    ("x*keyward*name", "forged"),
    ("x^keyward-name", "forged"),
    ("x-keyward`name", "forged"),
    ("x|keyward|name", "forged"),
];

/// Paths that an API could read as below `/v1/orders`.
const ORDERS: [&str; 22] = [
    "/v1/orders",
    "/v1/orders/",
    "/v1/orders/1",
    "/v1/orders?x=/../..",
    "/v1/%6Frders",
    "/%76%31/orders",
    "//v1/orders",
    "/v1//orders",
    "/v1/./orders",
    "/v1/orders/.",
    "/x/../v1/orders",
    "/x/%2e%2e/v1/orders",
    "/v1%2forders",
    "/v1%2Forders/1",
    "/v1/orders/..%2fx",
    "/v1/orders/1%2f..%2f..%2fx",
    "/v1;a/orders",
    "/x/..;/v1/orders",
    "/v1%3Ba/orders",
    "/v1\\orders",
    "/v1%5corders",
    "/v1/orders%00",
];

impl World {
    pub(super) async fn identity_cannot_be_forged(&self) {
        let scoped = self.issue("50", "orders:write", "").await.1;
        let bare = self.issue("51", "", "").await.1;
        for (key, identity) in [
            (scoped, ["50", "default", "orders:write", "{}"]),
            (bare, ["51", "default", "", "{}"]),
        ] {
            let headers = [&FORGED[..], &[("apikey", &*key)]].concat();
            let seen = self.pass(&headers).await;
            assert!(!seen.text.contains("forged"), "{seen:?}");
            let names = ["account-id", "name", "scopes", "metadata"];
            let got = names.map(|name| seen.header(&format!("x-keyward-{name}")));
            assert_eq!(got, identity, "{seen:?}");
            // A proxy removes the headers that `Connection` names.
            for hidden in ["x-keyward-account-id", "X-Keyward-Scopes, x-forwarded-for"] {
                let headers = [("apikey", &*key), ("connection", hidden)];
                let reply = self.ask("GET", "/", &headers).await;
                if reply.status != 400 {
                    let seen = self.seen(&reply);
                    assert_eq!(seen.header("x-keyward-account-id"), identity[0], "{seen:?}");
                    assert_eq!(seen.header("x-keyward-scopes"), identity[2], "{seen:?}");
                }
            }
        }
    }

    pub(super) async fn no_path_evades_a_scope(&self) {
        let key = self.issue("52", "", "").await.1;
        for path in ORDERS {
            let reply = self.ask("GET", path, &[("apikey", &key)]).await;
            assert!([400, 403].contains(&reply.status), "{path}: {reply:?}");
            let reply = self.ask("GET", path, &[]).await;
            assert!([400, 401].contains(&reply.status), "{path}: {reply:?}");
        }
        // The locations of the samples that ask Keyward, and Keyward's own paths, are the API's or none.
        for path in [
            "/_keyward",
            "/_keyward/orders:write",
            "/auth",
            "/v1/keys:verify",
        ] {
            let reply = self.ask("POST", path, &[]).await;
            assert!([401, 404].contains(&reply.status), "{path}: {reply:?}");
            let reply = self.ask("POST", path, &[("apikey", &key)]).await;
            if reply.status != 404 {
                assert_eq!(self.seen(&reply).path, path);
            }
        }
    }

    pub(super) async fn odd_requests_open_no_door(&self) {
        let key = self.issue("53", "", "").await.1;
        let apikey = ("apikey", &*key);
        assert_eq!(self.ask("HEAD", "/", &[apikey]).await.status, 200);
        for method in ["HEAD", "DELETE", "TRACE", "BREW"] {
            let reply = self.ask(method, "/", &[]).await;
            assert!(
                [400, 401, 405].contains(&reply.status),
                "{method}: {reply:?}"
            );
        }
        for size in [1_000, 10_000, 30_000, 100_000, 1_000_000] {
            // A proxy may close the connection before the request is sent, or Keyward may not read it.
            let header = ("x-large", &*"a".repeat(size));
            let reply = http_ask(self.proxy.address(), "GET", "/", &[header], "").await;
            let status = reply.map_or(400, |reply| reply.status);
            assert!(matches!(status, 400..500 | 503), "{size}: {status}");
        }
        let both = format!("{key}, {key}");
        for value in [&*both, &key[1..], &format!("{key}x"), &key.to_uppercase()] {
            let reply = self.ask("GET", "/", &[("apikey", value)]).await;
            assert_eq!(reply.status, 401, "{value}: {reply:?}");
        }
        // Envoy joins them to one value, which is no key.
        if self.kind != ProxyKind::Envoy {
            let many = vec![apikey; 50];
            self.pass(&many).await;
        }
    }
}

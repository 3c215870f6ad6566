//! The samples of `deploy/proxies`: each proxy in front of an API, with Keyward as a process.

mod hostile;
mod large;
mod outages;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use keyward_testkit::requests::by_id;
use keyward_testkit::{ProxyKind, http_ask};

use world::{ORIGIN, PREFLIGHT, World};

/// The whole story with one proxy, step by step.
async fn story(kind: ProxyKind) {
    let mut world = World::start(kind).await;
    world.only_a_valid_key_passes().await;
    world.address_is_that_of_the_connection().await;
    world.largest_identity_arrives_whole().await;
    world.browser_asks_without_a_key().await;
    world.identity_cannot_be_forged().await;
    world.no_path_evades_a_scope().await;
    world.odd_requests_open_no_door().await;
    world.revoked_key_is_refused_by_the_next_request().await;
    world.without_an_answer_nothing_passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_passes_live_keys_only() {
    story(ProxyKind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_passes_live_keys_only() {
    story(ProxyKind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_passes_live_keys_only() {
    story(ProxyKind::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_passes_live_keys_only() {
    story(ProxyKind::Envoy).await;
}

/// The client's address is that in front of the load balancer, and only the load balancer can say it.
async fn balanced_story(kind: ProxyKind) {
    let mut world = World::start_behind(kind, Some("127.0.0.1/32")).await;
    if kind == ProxyKind::Envoy {
        world.trust_what_envoy_appends().await;
    }
    world.address_is_that_before_the_balancer().await;
    let world = World::start_behind(kind, Some("127.0.0.2/32")).await;
    world.client_is_no_balancer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_behind_a_balancer_knows_the_client() {
    balanced_story(ProxyKind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_behind_a_balancer_knows_the_client() {
    balanced_story(ProxyKind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_behind_a_balancer_knows_the_client() {
    balanced_story(ProxyKind::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_behind_a_balancer_knows_the_client() {
    balanced_story(ProxyKind::Envoy).await;
}

impl World {
    async fn only_a_valid_key_passes(&self) {
        let key = self.issue("42", "orders:write", "").await.1;
        let bearer = format!("Bearer {key}");
        let api_key = format!("apikey {key}");
        for header in [
            ("apikey", &key),
            ("X-Api-Key", &key),
            ("Authorization", &bearer),
            ("authorization", &api_key),
        ] {
            let seen = self.pass(&[(header.0, header.1)]).await;
            assert_eq!(seen.header("x-keyward-account-id"), "42");
            assert_eq!(seen.header("x-keyward-scopes"), "orders:write");
            assert!(!seen.header("x-keyward-key-id").is_empty());
        }
        // Keyward must not read the body as its next request.
        let (path, body) = ("/v1/orders?page=2", "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        let headers = [("apikey", &*key)];
        for _ in 0..3 {
            let reply = http_ask(self.proxy.address(), "POST", path, &headers, body).await;
            let seen = self.seen(&reply.unwrap());
            assert_eq!(
                [&*seen.method, &seen.path, &seen.body],
                ["POST", path, body]
            );
        }

        let other = self.issue("43", "orders:read", "").await.1;
        for headers in [
            &[][..],
            &[("apikey", "")],
            &[("apikey", "kw_unknown")],
            &[("authorization", "Basic eDp5")],
            &[("apikey", &key), ("x-api-key", &other)],
            &[("apikey", &key), ("apikey", &other)],
            &[("authorization", &bearer), ("apikey", "kw_unknown")],
        ] {
            let reply = self.ask("GET", "/", headers).await;
            assert_eq!(reply.status, 401, "{headers:?}: {reply:?}");
            let is_challenge = |(name, value): &(String, String)| {
                name == "www-authenticate" && value.starts_with("ApiKey ")
            };
            assert!(reply.headers.iter().any(is_challenge), "{reply:?}");
        }
        let headers = [("apikey", &*other)];
        self.pass(&headers).await;
        let reply = self.ask("GET", "/v1/orders", &headers).await;
        assert_eq!(reply.status, 403, "{reply:?}");
    }

    async fn address_is_that_of_the_connection(&self) {
        let here = self.issue("44", "", "127.0.0.1/32").await.1;
        let far = self.issue("45", "", "10.0.0.0/8").await.1;
        for forged in [
            &[][..],
            &[("x-forwarded-for", "10.0.0.1")],
            &[
                ("x-forwarded-for", "10.0.0.1"),
                ("X-Forwarded-For", "10.0.0.2"),
            ],
            &[("x_forwarded_for", "10.0.0.1")],
            &[("x-real-ip", "10.0.0.1"), ("forwarded", "for=10.0.0.1")],
        ] {
            let seen = self.pass(&[forged, &[("apikey", &here)]].concat()).await;
            assert!(!seen.header("x-forwarded-for").contains("10.0"), "{seen:?}");
            let reply = self
                .ask("GET", "/", &[forged, &[("apikey", &far)]].concat())
                .await;
            assert_eq!(reply.status, 403, "{forged:?}: {reply:?}");
        }
    }

    /// The load balancer is the client of the test: it connects from 127.0.0.1.
    async fn address_is_that_before_the_balancer(&self) {
        let key = self.issue("48", "", "10.0.0.0/8").await.1;
        for (forwarded, status) in [
            (&["10.0.0.1"][..], 200),
            (&["6.6.6.6, 10.0.0.1"], 200),
            (&["6.6.6.6", "10.0.0.1"], 200),
            (&["10.0.0.1, 6.6.6.6"], 403),
            (&["10.0.0.1", "6.6.6.6"], 403),
            (&["6.6.6.6"], 403),
            (&[], 403),
        ] {
            let mut headers = vec![("apikey", &*key)];
            headers.extend(forwarded.iter().map(|line| ("x-forwarded-for", *line)));
            let reply = self.ask("GET", "/", &headers).await;
            assert_eq!(reply.status, status, "{forwarded:?}: {reply:?}");
        }
    }

    async fn client_is_no_balancer(&self) {
        let key = self.issue("49", "", "10.0.0.0/8").await.1;
        for forged in ["10.0.0.1", "127.0.0.2", "10.0.0.1, 127.0.0.2"] {
            let headers = [("apikey", &*key), ("x-forwarded-for", forged)];
            let reply = self.ask("GET", "/", &headers).await;
            assert_eq!(reply.status, 403, "{forged}: {reply:?}");
        }
    }

    async fn browser_asks_without_a_key(&self) {
        let key = self.issue("46", "", "").await.1;
        for more in [&[][..], &[("apikey", &*key), ("x-keyward-name", "forged")]] {
            let headers = [&PREFLIGHT[..], more].concat();
            let reply = self.ask("OPTIONS", "/v1/orders", &headers).await;
            let seen = self.seen(&reply);
            let identity = seen
                .headers
                .iter()
                .find(|(name, value)| name.starts_with("x-keyward-") && !value.is_empty());
            assert_eq!((&*seen.method, identity), ("OPTIONS", None));
        }
        for (method, headers) in [
            ("OPTIONS", &[][..]),
            ("OPTIONS", &[ORIGIN]),
            ("OPTIONS", &PREFLIGHT[1..]),
            ("POST", &PREFLIGHT[..]),
        ] {
            let reply = self.ask(method, "/v1/orders", headers).await;
            assert_eq!(reply.status, 401, "{method} {headers:?}: {reply:?}");
        }
    }

    async fn revoked_key_is_refused_by_the_next_request(&self) {
        let (id, key) = self.issue("47", "", "").await;
        self.pass(&[("apikey", &key)]).await;
        let revoked = AtomicBool::new(false);
        let traffic = async || {
            let mut refusals = 0;
            while refusals < 10 {
                let was_revoked = revoked.load(Ordering::SeqCst);
                let reply = self.ask("GET", "/", &[("apikey", &key)]).await;
                match reply.status {
                    401 => refusals += 1,
                    status => assert_eq!((status, was_revoked), (200, false), "{reply:?}"),
                }
            }
        };
        let revoke = async {
            self.admin.send(by_id(&id)).await.unwrap();
            revoked.store(true, Ordering::SeqCst);
            let reply = self.ask("GET", "/", &[("apikey", &key)]).await;
            assert_eq!(reply.status, 401, "{reply:?}");
        };
        tokio::join!(traffic(), traffic(), traffic(), revoke);
    }
}

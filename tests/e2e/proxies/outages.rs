//! Keyward does not answer, or does not know the proxy.

use keyward_testkit::{HttpAnswer, PATIENCE, ProxyOptions, eventually};

use super::world::World;

/// A 503 says nothing about the key.
fn is_unavailable(reply: &HttpAnswer) -> bool {
    let names = ["retry-after", "www-authenticate"];
    reply.status == 503 && names.map(|name| reply.header(name).is_some()) == [true, false]
}

impl World {
    pub(super) async fn without_an_answer_nothing_passes(&mut self) {
        let key = self.issue("60", "orders:write", "").await.1;
        self.keyward.pause();
        self.refuse_all(&key).await;
        self.keyward.go_on();
        self.pass_again(&key).await;
        assert!(self.keyward.stop().success());
        self.refuse_all(&key).await;
        self.start_again();
        self.pass_again(&key).await;

        let options = ProxyOptions {
            token: "kwt_unknown".to_owned(),
            ..self.options.clone()
        };
        self.proxy = self.kind.start(&options);
        self.refuse_all(&key).await;
    }

    /// Each request gets 503, with a live key and with an unknown one.
    async fn refuse_all(&self, key: &str) {
        let refuse = async |path, key| {
            let reply = self.ask("GET", path, &[("apikey", key)]).await;
            assert!(is_unavailable(&reply), "{path}: {reply:?}");
        };
        tokio::join!(
            refuse("/", key),
            refuse("/v1/orders", key),
            refuse("/", "kw_unknown"),
        );
    }

    async fn pass_again(&self, key: &str) {
        let passes = async || {
            let reply = self.ask("GET", "/v1/orders", &[("apikey", key)]).await;
            assert!(reply.status == 200 || is_unavailable(&reply), "{reply:?}");
            reply.status == 200
        };
        eventually("the key passes again", PATIENCE, passes).await;
    }
}

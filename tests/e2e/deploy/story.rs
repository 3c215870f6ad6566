//! The story on the services of `deploy/`: a person gets a key from the bot, uses it at an API, and
//! replaces it.

use std::net::SocketAddr;
use std::path::Path;

use keyward_proto::v1::Role;
use keyward_testkit::telegram::{Screen, Telegram};
use keyward_testkit::{Client, Programs, http_ask, start_api};

/// What the API says to this key.
async fn status(api: SocketAddr, key: &str) -> u16 {
    let answer = http_ask(api, "GET", "/v2/orders", &[("apikey", key)], "").await;
    answer.unwrap().status
}

/// Plays it with the bot that `telegram` talks to, and an API that reaches Keyward at `url`. `client` may
/// do everything.
pub(crate) async fn play(telegram: &Telegram, client: &Client, url: &str, authority: &Path) {
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("api.token");
    let verifier = client.token("api", &[Role::Verifier]).await.unwrap();
    std::fs::write(&token, verifier).unwrap();
    let ca = ["--ca", authority.to_str().unwrap()];
    let mut api = start_api(&[url.to_owned()], &token, &ca);
    let address = api.ready().parse().unwrap();

    let anna = telegram.person(1001, "en");
    let shows = |button: &'static str| move |screen: &Screen| screen.button(button).is_some();
    anna.send("/start");
    for (button, next) in [("👤 User Info", "🔑 API key"), ("🔑 API key", "♻️ Revoke")] {
        anna.sees(button, shows(button)).await;
        anna.tap(button);
        anna.sees(next, shows(next)).await;
    }
    let old = anna.screen().unwrap().key().unwrap().to_owned();
    assert_eq!(status(address, &old).await, 200);
    anna.tap("♻️ Revoke");
    anna.sees("the question", shows("✅ Confirm")).await;
    anna.tap("✅ Confirm");
    let is_new = |screen: &Screen| screen.key().is_some_and(|key| key != old);
    let new = anna.sees("a new key", is_new).await;
    assert_eq!(status(address, &old).await, 401, "dead at once");
    assert_eq!(status(address, new.key().unwrap()).await, 200);
    assert!(api.stop().success(), "{}", api.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_played_on_what_compose_yaml_starts() {
    let mut deployment = super::start();
    let telegram = Telegram::start();
    deployment.start_bot(&Programs::get().bot, &telegram.url());
    let token = deployment.token("operator/admin.token");
    let client = deployment.client(&token).await;
    let url = format!("https://localhost:{}", deployment.address().port());
    play(&telegram, &client, &url, &deployment.authority()).await;
    assert_eq!(deployment.check("bot"), Ok(()));
    assert!(
        deployment.stop("bot").success(),
        "{}",
        deployment.log("bot")
    );
    let unhealthy = deployment.check("bot").unwrap_err();
    assert!(unhealthy.contains("does not answer"), "{unhealthy}");
}

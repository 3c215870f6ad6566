//! Several bots in one process: each has its users, and fails alone.

use std::net::SocketAddr;

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::{Fault, Screen, Telegram, When};
use keyward_testkit::{PATIENCE, Program, eventually, http_get};

use crate::host::{Host, flags};
use crate::process::{self, bot, health};
use crate::world::{World, en, key_in};

const SECOND: &str = "7000000002:AAfakeTokenOfAnotherBot_012345678abc";

/// A process with the bot of the world, one of `second`, and one whose token Telegram does not know.
fn start(world: &World, second: &Telegram, of_second: &str) -> (Program, SocketAddr) {
    let file = |name: &str, text: &str| {
        let path = world.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tables = format!(
        "[[bots]]\ntelegram_token_file = {:?}\n\
         [[bots]]\ntelegram_token_file = {:?}\ntelegram_api_url = {:?}\n{of_second}\n\
         [[bots]]\ntelegram_token_file = {:?}\n",
        file("telegram", world.telegram.token()),
        file("second", SECOND),
        second.url(),
        file("dead", "7000000003:canary-dead"),
    );
    let config = file("bots.toml", &tables);
    let mut command = bot(world, &[("telegram_token_file", "none")]);
    command.args(["--config", &config]);
    process::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_token_stops_no_other_bot_and_health_names_it() {
    let (world, second) = (World::new().await, Telegram::with_token(SECOND));
    let template = "account_template = \"partner-{user_id}\"";
    let (mut process, address) = start(&world, &second, template);
    let first = world.telegram.person(5, "en");
    let (_, key) = world.open_key(&first).await;
    assert_eq!(world.keyward.live("tg-5"), [key]);
    let same = second.person(5, "en");
    same.send("/apikey");
    let shown = same.sees("the key", |screen| screen.key().is_some()).await;
    assert_eq!(world.keyward.live("partner-5"), [key_in(&shown)]);

    let dead = "bot 7000000003: Telegram refuses the token";
    let expected = format!("ok, except {dead}");
    let ready = http_get(address, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains(&expected),
        "{ready}"
    );
    assert_eq!(health(address).await, (Some(0), format!("{expected}\n")));
    let metrics = http_get(address, "/metrics").await;
    assert!(metrics.contains("keyward_bot_bots_unserved 1"), "{metrics}");

    // One more fails later, and the last one goes on.
    second.fault("getUpdates", 1000, unauthorized());
    eventually("the other bot is named", PATIENCE, async || {
        http_get(address, "/readyz")
            .await
            .contains("bot 7000000002: ")
    })
    .await;
    world.open_key(&first).await;
    assert!(process.stop().success());
    let log = process.output();
    assert!(
        log.contains("bot{id=\"7000000003\"}: ") && !log.contains("canary"),
        "{log}"
    );
    // At the stop, both bots hide their keys.
    for screen in [first.screen().unwrap(), same.message(shown.id).unwrap()] {
        assert_eq!(screen.key(), None, "{screen}");
    }
}

fn unauthorized() -> Fault {
    let body = r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#;
    Fault::Answer {
        status: 401,
        body: body.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bots_for_one_account_keep_one_key_and_a_slow_one_delays_no_other() {
    let (world, second) = (World::new().await, Telegram::with_token(SECOND));
    let host = Host::start().await;
    let of_host = flags(&world, &host).map(|(name, value)| format!("{name} = {value:?}"));
    let of_second = of_host.join("\n") + "\naccount_prefix = \"tg-\"";
    let (_process, _) = start(&world, &second, &of_second);
    host.knows("5");
    let [one, two] = [&world.telegram, &second].map(|telegram| telegram.person(5, "en"));
    let (first, old) = world.open_key(&one).await;
    two.send("/apikey");
    let shown = two
        .sees("the key", |screen| screen.key() == Some(&old))
        .await;

    // Both ask, and both confirm.
    let (asked, _) = world.ask_to_revoke(&one).await;
    two.tap_on(&shown, &en(Id::BUTTON_REVOKE));
    let question = |screen: &Screen| screen.button("✅ Confirm").is_some();
    let asked_there = two.sees("the question", question).await;
    one.tap_on(&asked, "✅ Confirm");
    two.tap_on(&asked_there, "✅ Confirm");
    let is_new = |screen: &Screen| screen.key().is_some_and(|key| key != old);
    let new = key_in(&one.sees("the new key", is_new).await);
    assert_eq!(key_in(&two.sees("the new key", is_new).await), new);
    assert_eq!(
        (world.keyward.live("tg-5"), world.keyward.count().0),
        (vec![new], 2)
    );
    let dead = |screen: &Screen| screen.id == first.id && screen.key().is_none();
    one.finds("that the old key is dead", dead).await;

    // The second bot waits for Telegram, and the first one serves on.
    let held = second.hold("sendMessage", When::Before);
    two.send("/start");
    held.arrived().await;
    world.ask(&one, "/start").await;
    held.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_bots_can_have_a_webhook() {
    let (world, second) = (World::new().await, Telegram::with_token(SECOND));
    let secret = world.files.path().join("webhook");
    std::fs::write(&secret, "a-secret-of-the-webhook").unwrap();
    let settings = format!(
        "account_template = \"partner-{{user_id}}\"\nwebhook_url = \"https://bot.example/hook\"\n\
         webhook_listen = \"127.0.0.1:0\"\nwebhook_secret_file = {secret:?}"
    );
    let (mut process, _) = start(&world, &second, &settings);
    let webhook = || {
        let output = process.output();
        let (_, rest) = output.split_once(", webhook on ")?;
        Some(rest.lines().next()?.parse().unwrap())
    };
    eventually("the webhook is named", PATIENCE, async || {
        webhook().is_some()
    })
    .await;
    second.resolve("bot.example", webhook().unwrap());
    let same = second.person(5, "en");
    same.send("/apikey");
    let shown = same.sees("the key", |screen| screen.key().is_some()).await;
    assert_eq!(world.keyward.live("partner-5"), [key_in(&shown)]);
    assert!(second.calls_of("getUpdates").is_empty());
    // The other one asks for its updates.
    let first = world.telegram.person(5, "en");
    let (_, key) = world.open_key(&first).await;
    assert_eq!(world.keyward.live("tg-5"), [key]);
    assert!(process.stop().success());
}

//! The real binary: its output and exit codes, and that no secret is in its output.

use std::net::SocketAddr;
use std::process::Command;

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::{Fault, When};
use keyward_testkit::{PATIENCE, Process, Program, eventually, http_get, without_settings};

use crate::world::{World, key_in};

fn command() -> Command {
    without_settings(env!("CARGO_BIN_EXE_keyward-bot"))
}

/// The bot with both fakes, with these settings in place of the usual ones.
pub(crate) fn bot(world: &World, other: &[(&str, &str)]) -> Command {
    let mut command = command();
    command
        .current_dir(world.files.path())
        .env("RUST_LOG", "trace");
    let mut flags: std::collections::BTreeMap<_, _> = world.flags().into_iter().collect();
    for (name, value) in other {
        flags.insert((*name).to_owned(), (*value).to_owned());
    }
    for (name, value) in flags {
        command
            .arg(format!("--{}", name.replace('_', "-")))
            .arg(value);
    }
    command
}

/// Starts the bot. Returns it with the address of its side port.
pub(crate) fn start(command: Command) -> (Program, SocketAddr) {
    let program = Program::start("keyward-bot", command, "keyward-bot is ready: @");
    let (_, addresses) = program
        .ready()
        .split_once(", metrics and probes on ")
        .unwrap();
    let address = addresses.split(',').next().unwrap().parse().unwrap();
    (program, address)
}

/// Runs `keyward-bot health` for this side port. Returns its exit code and output.
pub(crate) async fn health(side_port: impl ToString) -> (Option<i32>, String) {
    let mut command = command();
    command
        .args(["health", "--http-listen", &side_port.to_string()])
        // A proxy must not be used for this host.
        .env("http_proxy", "http://127.0.0.1:1");
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_writes_no_secrets_to_a_file() {
    let world = World::new().await;
    let (bot, _) = start(bot(&world, &[]));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", bot.id())).unwrap();
    let mut lines = limits.lines();
    let core = lines.find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.unwrap().split_whitespace().skip(4).take(2).collect();
    assert_eq!(core, ["0", "0"], "{limits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reports_each_failure_in_one_clear_line() {
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let serve = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = stranger.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let answer = b"HTTP/1.1 418 No\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(answer).await.unwrap();
        // The next call gets no answer.
        std::future::pending::<()>().await;
    };
    let ask = async {
        let no_bot = (Some(1), "keyward-bot: another program answers there: 418");
        let silent = (Some(1), "keyward-bot: the bot does not answer: ");
        let no_port = "keyward-bot: http_listen names no port to ask";
        let wrong = "keyward-bot: http_listen = 'here' (flag --http-listen): takes an IP address";
        for (side_port, (code, expected)) in [
            (address.as_str(), no_bot),
            (&address, silent),
            ("none", (Some(64), no_port)),
            ("127.0.0.1:0", (Some(64), no_port)),
            ("here", (Some(64), wrong)),
        ] {
            let (exit, text) = health(side_port).await;
            assert_eq!(exit, code, "{side_port}: {text}");
            assert!(text.starts_with(expected), "{side_port}: {text}");
        }
    };
    tokio::select! {
        () = serve => {}
        () = ask => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_serves_stops_and_prints_no_secret() {
    let world = World::new().await;
    let (mut bot, address) = start(bot(&world, &[]));
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    who.tap_data(unclear.id, "v1.forged");
    who.send("canary-text");
    world
        .telegram
        .fault("editMessageText", 1, Fault::Drop(When::After));
    world.keyward.keys.lock().is_unproven = false;
    let done = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    let new = key_in(&done);

    assert_eq!(health(address).await, (Some(0), "ok\n".to_owned()));
    let everywhere = format!("0.0.0.0:{}", address.port());
    assert_eq!(health(everywhere).await.0, Some(0));
    assert!(
        http_get(address, "/livez")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        http_get(address, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let metrics = http_get(address, "/metrics").await;
    for line in [
        "keyward_bot_revokes_total{outcome=\"replaced\"} 1",
        "keyward_bot_revokes_total{outcome=\"unclear\"} 1",
        "keyward_bot_forged_buttons_total 1",
        "keyward_bot_messages_showing_a_key 1",
        "keyward_bot_reveals_total 2",
        "keyward_bot_updates_in_flight 0",
        "keyward_bot_updates_total{kind=\"apikey\",outcome=\"ok\"} 1",
        "keyward_bot_update_duration_seconds_count{kind=\"tap\"} 4",
        "keyward_bot_telegram_calls_total{method=\"editMessageText\",outcome=\"lost\"} 1",
        "keyward_bot_keyward_calls_total{method=\"Revoke\",outcome=\"REVOKE_UNCONFIRMED\"} 1",
        "keyward_bot_keyward_call_duration_seconds_count{method=\"Issue\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(bot.stop().success());
    let (code, text) = health(address).await;
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("keyward-bot: the bot does not answer: "),
        "{text}"
    );
    let hidden = who.message(done.id).unwrap();
    assert!(hidden.key().is_none(), "{hidden}");
    let text = bot.output();
    assert!(text.contains("REVOKE_UNCONFIRMED"), "{text}");
    let (_, token) = world.telegram.token().split_once(':').unwrap();
    let data = asked
        .button("✅ Confirm")
        .and_then(|button| button.data.as_deref());
    for secret in [
        old.as_str(),
        &new,
        token,
        "kwt_canary",
        "canary-text",
        data.unwrap(),
    ] {
        assert!(
            !text.contains(secret) && !metrics.contains(secret),
            "{secret}\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_telegram_the_bot_waits_and_reports_it() {
    let world = World::new().await;
    // A free port.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let side = free.local_addr().unwrap();
    let listen = side.to_string();
    drop(free);
    let away = [
        ("telegram_api_url", "http://127.0.0.1:1"),
        ("http_listen", listen.as_str()),
    ];
    // Any line will do, because it does not become ready.
    let mut program = Program::start("keyward-bot", bot(&world, &away), "");
    eventually("the log names Telegram", PATIENCE, async || {
        program.output().contains("cannot reach Telegram")
    })
    .await;
    let answer = http_get(side, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("cannot reach Telegram"), "{answer}");
    let (code, text) = health(side).await;
    assert_eq!(code, Some(1));
    let expected = "keyward-bot: users are not served: cannot reach Telegram";
    assert!(text.starts_with(expected), "{text}");
    assert!(program.stop().success());
    assert!(!program.output().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_prints_one_clear_line_and_an_exit_code() {
    let world = World::new().await;
    std::fs::write(world.files.path().join("other"), "4243:canary-other").unwrap();
    let other = world.files.path().join("other").display().to_string();
    for (name, value, code, expected) in [
        (
            "hide_after",
            "soon",
            64,
            "hide_after = 'soon' (flag --hide-after)",
        ),
        ("hide_aftr", "1m", 64, "--hide-after"),
        ("telegram_token", "1:canary-other", 64, "--telegram-token"),
        (
            "telegram_token_file",
            &other,
            1,
            "Telegram does not know this bot",
        ),
        ("endpoint", "https://:0", 64, "endpoint"),
        ("token_file", "/nowhere/token", 1, "/nowhere/token"),
    ] {
        let (status, text) = Process::run_to_end(bot(&world, &[(name, value)]));
        assert_eq!(status.code(), Some(code), "{name}\n{text}");
        assert!(text.contains(expected), "{name}\n{text}");
        assert!(!text.contains("canary-"), "{text}");
    }
}

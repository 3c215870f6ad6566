//! Demonstrates Keyward in the terminal: starts Keyward, the bot and an API, and simulates Telegram. Anna
//! gets her key, uses it and replaces it. `--fast` skips the pauses.

use std::time::Duration;

use keyward_testkit::telegram::{Person, Screen};
use keyward_testkit::{HttpAnswer, Stage, http_ask};

/// The time for reading each step.
const PAUSE: Duration = Duration::from_millis(2500);
/// The address of the API in the README. The API of this run uses a free port.
const API: &str = "http://127.0.0.1:8080";

/// The labels of the buttons that Anna taps.
const USER_INFO: &str = "👤 User Info";
const API_KEY: &str = "🔑 API key";
const REVOKE: &str = "♻️ Revoke";
const CONFIRM: &str = "✅ Confirm";
const CANCEL: &str = "✖️ Cancel";

struct Show {
    stage: Stage,
    anna: Person,
    is_fast: bool,
}

#[expect(clippy::print_stdout, reason = "the output is the demonstration")]
impl Show {
    async fn say(&self, text: &str) {
        println!("{text}\n");
        if !self.is_fast {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints a screen as the chat shows it.
    async fn show(&self, screen: &Screen) {
        let text = screen.to_string();
        let lines = text
            .lines()
            .map(|line| format!("    {line}").trim_end().to_owned());
        self.say(&lines.collect::<Vec<_>>().join("\n")).await;
    }

    /// Taps a button and prints the next screen.
    async fn tap(&self, button: &str, is_next: impl Fn(&Screen) -> bool) -> Screen {
        self.say(&format!("Anna taps {button}")).await;
        self.anna.tap(button);
        let screen = self
            .anna
            .sees(&format!("the screen after {button}"), is_next)
            .await;
        self.show(&screen).await;
        screen
    }

    /// Anna's program calls the API with this key, and buys if there is an order; otherwise it looks at the account.
    async fn order(&self, key: &str, order: Option<&str>) -> HttpAnswer {
        let headers = [("apikey", key), ("content-type", "application/json")];
        let look = ("GET", "/v2/user-info", "");
        let (method, path, body) = order.map_or(look, |order| ("POST", "/v2/buy-resource", order));
        let (headers, data) = match order {
            Some(order) => (
                &headers[..],
                format!(" -H 'content-type: application/json' -d '{order}'"),
            ),
            None => (&headers[..1], String::new()),
        };
        let answer = http_ask(self.stage.api(), method, path, headers, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("the API does not respond: {error}"));
        let output = format!("{} {}", answer.status, answer.body);
        self.say(&format!(
            "$ curl -H 'apikey: {key}'{data} {API}{path}\n{output}"
        ))
        .await;
        answer
    }
}

fn key_of(screen: &Screen) -> String {
    screen.key().unwrap_or_default().to_owned()
}

async fn play(mut show: Show) {
    let shows = |button: &'static str| move |screen: &Screen| screen.button(button).is_some();
    show.say("Keyward, the bot and an order API run as processes; only Telegram is simulated.")
        .await;
    show.say("Anna writes /start").await;
    show.anna.send("/start");
    let menu = show.anna.sees("the menu", shows(USER_INFO)).await;
    show.show(&menu).await;
    show.tap(USER_INFO, shows(API_KEY)).await;
    let old = key_of(&show.tap(API_KEY, shows(REVOKE)).await);

    show.say("She copies the key into her program. It works.")
        .await;
    let answer = show
        .order(&old, Some(r#"{"receiver":"TAnna","resourceAmount":65000}"#))
        .await;
    assert_eq!(answer.status, 200);
    show.say("Others have seen her key, so she starts to replace it, but then cancels.")
        .await;
    show.tap(REVOKE, shows(CONFIRM)).await;
    let kept = show.tap(CANCEL, shows(REVOKE)).await;
    assert_eq!(key_of(&kept), old);
    assert_eq!(show.order(&old, None).await.status, 200);

    show.say("Nothing has changed. Now she confirms.").await;
    show.tap(REVOKE, shows(CONFIRM)).await;
    let new = |screen: &Screen| screen.key().is_some_and(|key| key != old);
    let new = key_of(&show.tap(CONFIRM, new).await);
    show.say("The next request with the old key fails, and the new key works.")
        .await;
    assert_eq!(show.order(&old, None).await.status, 401);
    assert_eq!(show.order(&new, None).await.status, 200);

    show.say("The bot stops. It hides the displayed key, as it also does after some minutes.")
        .await;
    show.stage.stop_bot();
    let hidden = show
        .anna
        .sees("the hint", |screen| screen.key().is_none())
        .await;
    show.show(&hidden).await;
}

#[tokio::main]
async fn main() {
    let is_fast = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--fast" => true,
        other => panic!("unknown arguments {other:?}; the only argument is --fast"),
    };
    let stage = Stage::start(&[]);
    let anna = stage.telegram.person(1001, "en");
    let show = Show {
        stage,
        anna,
        is_fast,
    };
    play(show).await;
}

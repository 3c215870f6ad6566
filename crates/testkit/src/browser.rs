//! A headless Chromium with one page, driven by its DevTools protocol.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::deadline::{PATIENCE, wait_until};
use crate::guard::{Guard, KILL_ALL};
use crate::processes;

/// Chromium takes commands from the file descriptor 3, and answers on 4.
const START: &str = r#"
mkfifo commands answers
exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run \
    --disable-background-networking --disable-component-update --user-data-dir=profile \
    --remote-debugging-pipe about:blank 3<commands 4>answers
"#;

/// A running browser. It ends when this is dropped and when this process ends.
pub struct Browser {
    browser: Option<Child>,
    commands: File,
    answers: BufReader<File>,
    sent: u64,
    session: Option<String>,
    /// The errors that the page has reported.
    errors: Vec<String>,
    // Dropped after the browser is killed.
    _guard: Guard,
}

impl Browser {
    /// Starts Chromium with an empty page.
    ///
    /// # Panics
    ///
    /// This machine lacks Chromium, or it does not start.
    pub fn start() -> Self {
        let guard = Guard::new("chromium", KILL_ALL);
        let home = guard.home();
        let log = File::create(home.join("log")).expect("a log can be written");
        let browser = Command::new("sh")
            .args(["-ec", START])
            .current_dir(home)
            .env("HOME", home)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("a shell starts");
        let pipes = [home.join("commands"), home.join("answers")];
        wait_until("the pipes are there", PATIENCE, || {
            pipes.iter().all(|pipe| pipe.exists())
        });
        let [commands, answers] = pipes;
        let open = "Chromium opens its pipes; scripts/install-test-tools.sh installs it";
        let commands = OpenOptions::new().write(true).open(commands).expect(open);
        let answers = File::open(answers).expect(open);
        let mut this = Self {
            browser: Some(browser),
            commands,
            answers: BufReader::new(answers),
            sent: 0,
            session: None,
            errors: Vec::new(),
            _guard: guard,
        };
        let page = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = this.call("Target.attachToTarget", attach);
        this.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// Gives the window a size, and the user's preference for dark colours.
    pub fn look(&mut self, width: u32, height: u32, is_dark: bool) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [scheme] }),
        );
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    ///
    /// The expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", ask);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// A picture of the page as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let shot = self.call(
            "Page.captureScreenshot",
            json!({ "captureBeyondViewport": true }),
        );
        let png = BASE64_STANDARD.decode(shot["data"].as_str().expect("a picture is text"));
        png.expect("a picture is Base64")
    }

    /// What the page has reported since the last time: exceptions, refusals of its policy, failed requests.
    pub fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let message = format!("{message}\0");
        self.commands
            .write_all(message.as_bytes())
            .expect("Chromium reads");
        loop {
            let mut answer = Vec::new();
            let read = self
                .answers
                .read_until(0, &mut answer)
                .expect("Chromium answers");
            assert!(read > 0, "Chromium has ended; {method}");
            answer.pop();
            let mut answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
            let is_error = match answer["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Log.entryAdded") => answer["params"]["entry"]["level"] == "error",
                _ => false,
            };
            if is_error {
                self.errors.push(answer["params"].to_string());
            }
            if answer["id"] == self.sent {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(browser) = self.browser.take() {
            processes::kill_family(browser);
        }
    }
}

//! The story of the bot is what `make demo` prints.

use std::collections::HashMap;
use std::process::Command;

use keyward_testkit::Programs;
use regex::Regex;

use super::updating;

const BEGIN: &str = "<!-- story -->\n```text\n";
const END: &str = "```\n<!-- end -->";

/// The page as it should be: unchanged, if the demo prints the same except for keys and times;
/// otherwise with the demo's output.
pub(super) fn with_story(text: &str) -> String {
    let begin = text.find(BEGIN).expect("the page contains the story") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("the story ends");
    let shown = &text[begin..end];
    let printed = play();
    if stencil(shown) == stencil(&printed) {
        return text.to_owned();
    }
    assert!(
        updating(),
        "the page shows\n{shown}\nand the demo printed\n{printed}"
    );
    [&text[..begin], &printed, &text[end..]].concat()
}

/// What the demo prints.
fn play() -> String {
    let output = Command::new(&Programs::get().demo)
        .arg("--fast")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
        + "\n"
}

/// The text with a number in place of each key, hint and time: the same number for the same.
fn stencil(text: &str) -> String {
    let volatile = Regex::new(
        r"\bkw_[0-9A-Za-z]{49}\b|\bkw_[0-9A-Za-z]{4}\b|\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?",
    );
    let mut numbers = HashMap::new();
    let numbered = |found: &regex::Captures<'_>| {
        let next = numbers.len();
        let number = numbers.entry(found[0].to_owned()).or_insert(next);
        format!("#{number}")
    };
    volatile.unwrap().replace_all(text, numbered).into_owned()
}

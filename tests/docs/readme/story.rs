//! The story in the README matches the output of `make demo`.

use std::collections::HashMap;
use std::process::Command;

use keyward_testkit::Programs;
use regex::Regex;

use super::updating;

const BEGIN: &str = "<!-- story -->\n```text\n";
const END: &str = "```\n<!-- end -->";

/// The README as it should be: as it is, if the demo prints the same but for keys and times,
/// otherwise with what it printed.
pub(super) fn with_story(text: &str) -> String {
    let begin = text.find(BEGIN).expect("the README holds the story") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("the story ends");
    let says = &text[begin..end];
    let printed = play();
    if stencil(says) == stencil(&printed) {
        return text.to_owned();
    }
    assert!(
        updating(),
        "README.md says\n{says}\nand printed was\n{printed}"
    );
    [&text[..begin], &printed, &text[end..]].concat()
}

/// What the demo prints.
fn play() -> String {
    let output = Command::new(&Programs::get().demo)
        .arg("--fast")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
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

//! Inline keyboards and the limits of their buttons.

use serde_json::{Map, Value, json};

use super::calls::Refusal;
use super::parameters::Parameters as _;

/// The maximum length of callback data, in bytes.
const DATA: usize = 64;
/// The maximum length of a text that a button copies, in characters.
const COPIED: usize = 256;
/// The maximum number of buttons of a keyboard.
const MOST: usize = 100;

/// A button under a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Button {
    /// The label.
    pub label: String,
    /// The callback data that a tap sends to the bot.
    pub data: Option<String>,
    /// The text that a tap copies. The bot gets no update.
    pub copies: Option<String>,
    /// The URL that a tap opens.
    pub url: Option<String>,
}

/// The rows of buttons of a call.
pub(super) fn rows(arguments: &Map<String, Value>) -> Result<Vec<Vec<Button>>, Refusal> {
    let Some(markup) = arguments.value("reply_markup") else {
        return Ok(Vec::new());
    };
    let Some(rows) = markup.get("inline_keyboard") else {
        return match markup {
            Value::Object(_) => Ok(Vec::new()),
            _ => Err(Refusal::bad("object expected as reply markup")),
        };
    };
    let rows: Vec<_> = array(rows)?
        .iter()
        .map(|row| array(row)?.iter().map(button).collect())
        .collect::<Result<_, _>>()?;
    if rows.iter().map(Vec::len).sum::<usize>() > MOST {
        return Err(Refusal::bad("reply markup is too long"));
    }
    Ok(rows.into_iter().filter(|row| !row.is_empty()).collect())
}

fn array(value: &Value) -> Result<&Vec<Value>, Refusal> {
    let array = value.as_array();
    array.ok_or_else(|| Refusal::bad("can't parse inline keyboard: an Array is expected"))
}

fn button(value: &Value) -> Result<Button, Refusal> {
    let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned());
    let label = text(value.get("text")).unwrap_or_default();
    if label.trim().is_empty() {
        return Err(Refusal::bad(
            "can't parse inline keyboard button: Text must be non-empty",
        ));
    }
    let button = Button {
        label,
        data: text(value.get("callback_data")),
        copies: text(value.get("copy_text").and_then(|copy| copy.get("text"))),
        url: text(value.get("url")),
    };
    let kinds = [&button.data, &button.copies, &button.url];
    if kinds.iter().filter(|kind| kind.is_some()).count() != 1 {
        return Err(Refusal::bad(
            "can't parse inline keyboard button: exactly one kind of action is expected",
        ));
    }
    let data = button.data.as_ref().map(String::len);
    if data.is_some_and(|length| !(1..=DATA).contains(&length)) {
        return Err(Refusal::bad("BUTTON_DATA_INVALID"));
    }
    let copied = button.copies.as_ref().map(|text| text.chars().count());
    if copied.is_some_and(|length| !(1..=COPIED).contains(&length)) {
        return Err(Refusal::bad("BUTTON_COPY_TEXT_INVALID"));
    }
    if let Some(url) = button.url.as_deref().filter(|url| !is_page(url)) {
        let why = format!("inline keyboard button URL '{url}' is invalid: Wrong HTTP URL");
        return Err(Refusal::bad(why));
    }
    Ok(button)
}

/// Whether a button may open this URL: Telegram wants a host with a dot. `.invalid` stands for all others
/// that it refuses.
fn is_page(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    uri.is_some_and(|uri| {
        let is_web = ["http", "https"].contains(&uri.scheme_str().unwrap_or_default());
        let is_host = |host: &str| host.contains('.') && !host.ends_with(".invalid");
        is_web && uri.host().is_some_and(is_host)
    })
}

/// The keyboard as the bot sees it.
pub(super) fn json(rows: &[Vec<Button>]) -> Value {
    let button = |button: &Button| {
        let mut json = json!({ "text": button.label });
        if let Some(data) = &button.data {
            json["callback_data"] = json!(data);
        }
        if let Some(text) = &button.copies {
            json["copy_text"] = json!({ "text": text });
        }
        if let Some(url) = &button.url {
            json["url"] = json!(url);
        }
        json
    };
    let rows = rows.iter().map(|row| row.iter().map(button).collect());
    json!({ "inline_keyboard": rows.collect::<Vec<Value>>() })
}

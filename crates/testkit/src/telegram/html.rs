//! Parses `parse_mode` HTML, with Telegram's error messages.

use super::format::{Entity, Formatted};

/// An open element.
struct Open {
    tag: String,
    kind: &'static str,
    url: Option<String>,
    /// Its start, in UTF-16 code units.
    begin: usize,
}

/// The text without its tags, and its formatting.
pub(super) fn parse(html: &str) -> Result<Formatted, String> {
    let mut text = String::new();
    let mut open: Vec<Open> = Vec::new();
    let mut entities = Vec::new();
    let mut at = 0;
    while let Some(next) = html[at..].find(['<', '&']) {
        text.push_str(&html[at..at + next]);
        at += next;
        if html[at..].starts_with('&') {
            let (sign, length) = reference(&html[at..]).unwrap_or(('&', 1));
            text.push(sign);
            at += length;
            continue;
        }
        let length = tag_length(&html[at..]);
        let closes = html[at..].starts_with("</");
        let Some(length) = length else {
            let which = if closes { "end" } else { "start" };
            return Err(format!("Unclosed {which} tag at byte offset {at}"));
        };
        let inner = &html[at + 1..at + length - 1];
        let here = units(&text);
        if closes {
            let name = inner[1..].trim().to_lowercase();
            let Some(begun) = open.pop() else {
                return Err(format!("Unexpected end tag at byte offset {at}"));
            };
            if begun.tag != name && !name.is_empty() {
                return Err(format!(
                    "Unmatched end tag at byte offset {at}, expected \"</{}>\", found \"</{name}>\"",
                    begun.tag
                ));
            }
            if here > begun.begin {
                entities.push(Entity {
                    kind: begun.kind.to_owned(),
                    offset: begun.begin,
                    length: here - begun.begin,
                    url: begun.url,
                });
            }
        } else {
            open.push(
                start_tag(inner, here).map_err(|name| {
                    format!("Unsupported start tag \"{name}\" at byte offset {at}")
                })?,
            );
        }
        at += length;
    }
    text.push_str(&html[at..]);
    if let Some(open) = open.last() {
        return Err(format!(
            "Can't find end tag corresponding to start tag \"{}\"",
            open.tag
        ));
    }
    entities.sort_by_key(|entity: &Entity| (entity.offset, std::cmp::Reverse(entity.length)));
    Ok(Formatted { text, entities }.trimmed())
}

/// The length of `text` in UTF-16 code units.
fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The length of the tag at the start of `rest`. Quoted values can contain a `>`.
fn tag_length(rest: &str) -> Option<usize> {
    let mut quote = None;
    for (index, sign) in rest.char_indices() {
        match (quote, sign) {
            (None, '>') => return Some(index + 1),
            (None, '"' | '\'') => quote = Some(sign),
            (Some(open), sign) if open == sign => quote = None,
            _ => {}
        }
    }
    None
}

/// The character for a reference at the start of `rest`, and the length of the reference.
fn reference(rest: &str) -> Option<(char, usize)> {
    let end = rest.find(';')?;
    let sign = match &rest[1..end] {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        number => {
            let number = number.strip_prefix('#')?;
            let value = match number.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(value.ok()?)?
        }
    };
    Some((sign, end + 1))
}

/// The element of a start tag, or the name of an unknown one.
fn start_tag(inner: &str, begin: usize) -> Result<Open, String> {
    let (name, attributes) = inner
        .split_once(|sign: char| sign.is_whitespace())
        .unwrap_or((inner, ""));
    let tag = name.to_lowercase();
    let kind = match tag.as_str() {
        "b" | "strong" => "bold",
        "i" | "em" => "italic",
        "u" | "ins" => "underline",
        "s" | "strike" | "del" => "strikethrough",
        "tg-spoiler" => "spoiler",
        "span" if attribute(attributes, "class") == Some("tg-spoiler") => "spoiler",
        "a" => "text_link",
        "code" => "code",
        "pre" => "pre",
        "blockquote" => "blockquote",
        _ => return Err(tag),
    };
    let url = attribute(attributes, "href").map(str::to_owned);
    Ok(Open {
        tag,
        kind,
        url,
        begin,
    })
}

/// The value of `name="value"`.
fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let value = attributes.split_once(name)?.1.trim_start();
    let value = value.strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|sign| "\"'".contains(*sign))?;
    value[1..].split_once(quote).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(html: &str) -> (String, Vec<(String, String)>) {
        let parsed = parse(html).unwrap();
        let marked = parsed.entities.iter();
        let marked = marked.map(|entity| (entity.kind.clone(), parsed.marked(entity)));
        (parsed.text.clone(), marked.collect())
    }

    #[test]
    fn tags_become_marks_that_count_in_utf_16() {
        let (text, marks) = marked("🔑 <b>Key</b>: <code>a&lt;b</code> &amp; <i>钥<u>匙</u></i>");
        assert_eq!(text, "🔑 Key: a<b & 钥匙");
        let expected = [
            ("bold", "Key"),
            ("code", "a<b"),
            ("italic", "钥匙"),
            ("underline", "匙"),
        ];
        let expected = expected.map(|(kind, text)| (kind.to_owned(), text.to_owned()));
        assert_eq!(marks, expected);
        assert_eq!(parse("🔑 <b>Key</b>").unwrap().entities[0].offset, 3);
        assert_eq!(marked("  a &unknown; &#65;&#x42; ").0, "a &unknown; AB");
    }

    #[test]
    fn wrong_tags_are_refused_as_telegram_does() {
        for (html, refusal) in [
            (
                "a <h1>b</h1>",
                "Unsupported start tag \"h1\" at byte offset 2",
            ),
            ("a < b", "Unclosed start tag at byte offset 2"),
            ("a </b>", "Unexpected end tag at byte offset 2"),
            (
                "<b>x</i>",
                "Unmatched end tag at byte offset 4, expected \"</b>\", found \"</i>\"",
            ),
            (
                "<b>x",
                "Can't find end tag corresponding to start tag \"b\"",
            ),
            (
                "<span>x</span>",
                "Unsupported start tag \"span\" at byte offset 0",
            ),
        ] {
            assert_eq!(parse(html).unwrap_err(), refusal, "{html}");
        }
    }

    #[test]
    fn an_attribute_may_hold_what_ends_a_tag() {
        let parsed = parse("<a href=\"https://a.example/?q=>\">x</a>").unwrap();
        assert_eq!(
            parsed.entities[0].url.as_deref(),
            Some("https://a.example/?q=>")
        );
    }
}

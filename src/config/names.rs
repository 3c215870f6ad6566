//! The names by which browsers reach this host, and of the sites that may call it.

use http::HeaderValue;

/// An origin as browsers write it in the header `origin`.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim();
    let parsed = url::Url::parse(text).ok();
    let origin = parsed.map(|url| url.origin().ascii_serialization());
    let is_origin = origin.is_some_and(|origin| origin == text && text.starts_with("http"));
    let value = HeaderValue::try_from(text).ok().filter(|_| is_origin);
    value.ok_or_else(|| {
        "takes origins such as https://console.example.com, without a path".to_owned()
    })
}

/// A name of this host.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match text
        .split('.')
        .all(|part| !part.is_empty() && is_name(part))
    {
        true => Ok(text.to_owned()),
        false => Err("takes host names such as keys.example.com, without a port".to_owned()),
    }
}

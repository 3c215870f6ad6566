//! A page of HTML on the side port, and the JSON that it shows. A browser gives neither to a page of another
//! site: no site may frame, read or script it.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::http::{TEXT, response};

/// A page.
pub struct Page {
    html: &'static str,
    policy: HeaderValue,
    status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    hosts: Arc<[String]>,
}

impl Page {
    /// A page with one `<style>` and one `<script>`, which reads `/status.json` and `/metrics`. Each request
    /// calls `status`. A browser may open the page by an IP address, as `localhost`, or by one of `hosts`.
    pub fn new(
        html: &'static str,
        hosts: Arc<[String]>,
        status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    ) -> Self {
        let policy = format!(
            "default-src 'none'; connect-src 'self'; style-src {}; script-src {}; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash(html, "style"),
            hash(html, "script")
        );
        Self {
            html,
            // A hash is Base64, so the policy is always a header.
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("sandbox")),
            status,
            hosts,
        }
    }

    /// The answer to a request for the page or its JSON; `None` for another path.
    pub(super) fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
        let (kind, text) = match uri.path() {
            "/" => ("text/html; charset=utf-8", None),
            "/status.json" => ("application/json", Some((self.status)())),
            _ => return None,
        };
        if !self.is_ours(uri, headers) {
            let text = "this host name is not in `http_hosts`\n";
            return Some(response(StatusCode::MISDIRECTED_REQUEST, TEXT, text.into()));
        }
        let text = text.map_or(Bytes::from_static(self.html.as_bytes()), |json| {
            json.to_string().into()
        });
        let mut response = response(StatusCode::OK, kind, text);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(response)
    }

    /// Whether the request names this host. A page of another site can make its own name lead here (DNS
    /// rebinding), but then the browser still sends that name.
    fn is_ours(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let host = host.to_str().ok().filter(|host| !host.contains('@'));
        let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else {
            return false;
        };
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        uri.host().is_none()
            && (name.parse::<IpAddr>().is_ok()
                || name.eq_ignore_ascii_case("localhost")
                || self
                    .hosts
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(name)))
    }
}

/// The hash by which a policy allows the text of an element.
fn hash(html: &str, element: &str) -> String {
    let text = html
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
        .map_or("", |(text, _)| text);
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_open_the_page() {
        let page = Page::new(
            "<style>a{}</style><script>b</script>",
            Arc::new(["keys.internal".to_owned()]),
            Box::new(|| serde_json::json!({})),
        );
        let ask = |hosts: &[&str], uri: &str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            page.answer(&uri.parse().unwrap(), &headers).unwrap()
        };
        for host in [
            "127.0.0.1:9464",
            "10.0.0.7",
            "[::1]:9464",
            "LocalHost:1",
            "keys.internal:9464",
        ] {
            let answer = ask(&[host], "/");
            assert_eq!(answer.status(), 200, "{host}");
            let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            // `printf 'a{}' | openssl dgst -sha256 -binary | base64`
            assert!(
                policy.starts_with("default-src 'none'; connect-src 'self'; style-src 'sha256-")
            );
            assert!(
                policy.contains("'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='"),
                "{policy}"
            );
        }
        for hosts in [
            &["evil.example:9464"][..],
            &["127.0.0.1.evil.example"],
            &["keys.internal.evil.example"],
            &["a@127.0.0.1"],
            &[""],
            &[],
            &["localhost", "evil.example"],
        ] {
            for path in ["/", "/status.json"] {
                assert_eq!(ask(hosts, path).status(), 421, "{hosts:?}");
            }
        }
        assert_eq!(ask(&["localhost"], "http://evil.example/").status(), 421);
        assert!(
            page.answer(&"/metrics".parse().unwrap(), &HeaderMap::new())
                .is_none()
        );
    }
}

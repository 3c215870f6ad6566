//! What an error of Redis tells the operator: the server's own words, and what to do.

use redis::{ErrorKind, RedisError};

/// The longest text of a server that is logged.
const MAX_TEXT: usize = 200;

/// What to do about an error, by the code that the server sends.
const REMEDIES: [(&str, &str); 6] = [
    (
        "WRONGPASS",
        "check the user and the password in `redis` or `redis_password_file`",
    ),
    (
        "NOAUTH",
        "Redis asks for a password: write it into `redis`, or set `redis_password_file`",
    ),
    (
        "NOPERM",
        "give this user the commands, keys and channels of deploy/redis.acl",
    ),
    (
        "OOM",
        "Redis is full: raise maxmemory, and set maxmemory-policy allkeys-lru",
    ),
    ("MISCONF", "Redis cannot write to its disk: look at its log"),
    (
        "NOPROTO",
        "Redis must speak RESP3: use Redis 6 or later, or Valkey",
    ),
];

/// The error as text, without `password` and what a server repeats of a command.
pub(super) fn explain(error: &RedisError, password: Option<&str>) -> String {
    let code = error.code().unwrap_or_default();
    let text = match (error.kind(), error.detail()) {
        (ErrorKind::Io, _) => error.to_string(),
        (_, Some(detail)) if !code.is_empty() => format!("{code} {detail}"),
        (_, Some(detail)) => format!("{}: {detail}", error.category()),
        (_, None) => format!("{} {code}", error.category()),
    };
    // A server repeats unknown commands, in quotes or behind these words, and AUTH contains the password.
    let marks = ["`", "'", ", with args"].into_iter();
    let end = marks.filter_map(|mark| text.find(mark)).min();
    let end = end.filter(|_| code == "ERR");
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    let text = match password.filter(|password| text.contains(password)) {
        Some(_) => error.category(),
        None => text.trim_end(),
    };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(printable).take(MAX_TEXT).collect();
    let remedy = REMEDIES.iter().find(|(known, _)| *known == code);
    remedy.map_or_else(|| text.clone(), |(_, remedy)| format!("{text}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, ServerErrorKind};

    use super::*;

    #[test]
    fn the_servers_words_are_kept_and_secrets_are_not() {
        let server = |text: &str| -> RedisError {
            let reply = redis::parse_redis_value(format!("-{text}\r\n").as_bytes());
            let value = reply.unwrap();
            value.extract_error().unwrap_err()
        };
        for (text, expected) in [
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                "WRONGPASS invalid username-password pair or user is disabled.; check the user",
            ),
            (
                "NOAUTH Authentication required.",
                "NOAUTH Authentication required.; Redis asks for a password",
            ),
            (
                "NOPERM User kw has no permissions to run the 'get' command",
                "NOPERM User kw has no permissions to run the 'get' command; give this user",
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                "OOM command not allowed when used memory > 'maxmemory'.; Redis is full",
            ),
            (
                "ERR unknown command `HELLO`, with args beginning with: `3`, `hunt`",
                "ERR unknown command",
            ),
            (
                "ERR unknown command, with args: HELLO 3 AUTH kw hunt",
                "ERR unknown command",
            ),
            ("ERR hunter2 is wrong", "response error"),
            ("NEW \u{1b}[2J", "NEW  [2J"),
        ] {
            let told = explain(&server(text), Some("hunter2"));
            assert!(told.starts_with(expected), "{text}: {told}");
            assert!(!told.contains("hunt"), "{told}");
        }
        let own = (
            ErrorKind::InvalidClientConfig,
            "no file",
            "/f: gone".to_owned(),
        );
        let told = explain(&own.into(), None);
        assert_eq!(told, "invalid client config: /f: gone");
        let bare = RedisError::from((ServerErrorKind::ResponseError.into(), "x"));
        assert_eq!(explain(&bare, None), "response error ERR");
    }
}

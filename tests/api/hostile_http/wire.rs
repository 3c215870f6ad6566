//! Bytes that are no request, or that two readers could read differently.

use super::*;

/// The body in chunks.
const CHUNKS: &str = "e\r\n{\"apiKey\":\"x\"}\r\n0\r\n\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// Sends each case, and compares the statuses of the answers and whether the connection is kept.
async fn all(local: &Local, cases: Vec<(&str, String, &[u16], bool)>) {
    let port = local.app.rest_address().unwrap();
    let mut wrong = Vec::new();
    for (name, bytes, wanted, is_kept) in cases {
        let (answers, kept) = answers(port, bytes).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        if (&*statuses, kept) != (wanted, is_kept) {
            wrong.push((name, statuses, kept, answers));
        }
        is_honest(local).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_body_is_where_the_rfc_says() {
    let (local, _client) = start().await;
    let with = |lines: &str, body: &str| verify(&local, &format!("{JSON}{lines}"), body);
    let sized = |length: &str| with(&format!("content-length: {length}\r\n"), BODY);
    let chunked = |chunks: &str| with(CHUNKED, chunks);
    // What a reader of the other length would take for a second request.
    let smuggled = format!("{CHUNKS}GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n");
    let host = |lines: &str| sized("14").replace("host: x\r\n", lines);
    let cases = vec![
        ("a length", sized("14"), &[200][..], true),
        ("no host", host(""), &[400], true),
        ("two hosts", host("host: x\r\nhost: y\r\n"), &[400], true),
        (
            "the same host twice",
            host("host: x\r\nhost: x\r\n"),
            &[400],
            true,
        ),
        ("chunks", chunked(CHUNKS), &[200], true),
        // RFC 9112, 6.1: the chunks count, and the connection ends.
        (
            "a length and chunks",
            with(
                &format!("content-length: {}\r\n{CHUNKED}", smuggled.len()),
                &smuggled,
            ),
            &[200],
            false,
        ),
        (
            "chunks and a length",
            with(&format!("{CHUNKED}content-length: 5\r\n"), &smuggled),
            &[200],
            false,
        ),
        (
            "two lengths",
            with("content-length: 14\r\ncontent-length: 15\r\n", BODY),
            &[400],
            false,
        ),
        (
            "the same length twice",
            with("content-length: 14\r\ncontent-length: 14\r\n", BODY),
            &[200],
            true,
        ),
        ("a list of lengths", sized("14, 14"), &[400], false),
        ("a length with a sign", sized("+14"), &[400], false),
        ("a negative length", sized("-14"), &[400], false),
        ("a hexadecimal length", sized("0xe"), &[400], false),
        ("an empty length", sized(""), &[400], false),
        (
            "a length of 2^64",
            sized("18446744073709551616"),
            &[400],
            false,
        ),
        (
            "an encoding that is none",
            with("transfer-encoding: xchunked\r\n", CHUNKS),
            &[400],
            false,
        ),
        (
            "chunks that are not the last encoding",
            with("transfer-encoding: chunked, identity\r\n", CHUNKS),
            &[400],
            false,
        ),
        (
            "an encoding behind chunks",
            with(&format!("{CHUNKED}transfer-encoding: identity\r\n"), CHUNKS),
            &[400],
            false,
        ),
        (
            "a chunk without a size",
            chunked("zz\r\nx\r\n0\r\n\r\n"),
            &[400],
            false,
        ),
        (
            "a chunk of -1",
            chunked("-1\r\nx\r\n0\r\n\r\n"),
            &[400],
            false,
        ),
        (
            "a chunk of 2^64",
            chunked("10000000000000000\r\nx\r\n0\r\n\r\n"),
            &[400],
            false,
        ),
        (
            "a chunk longer than its size",
            chunked("1\r\nxx\r\n0\r\n\r\n"),
            &[400],
            false,
        ),
        (
            "chunks with bare newlines",
            chunked("e\n{\"apiKey\":\"x\"}\n0\n\n"),
            &[400],
            false,
        ),
        (
            "a chunk with an extension",
            chunked("e;name=value\r\n{\"apiKey\":\"x\"}\r\n0\r\n\r\n"),
            &[200],
            true,
        ),
        (
            "an extension with a newline",
            chunked("e;\nname\r\n{\"apiKey\":\"x\"}\r\n0\r\n\r\n"),
            &[400],
            false,
        ),
        (
            "a trailer",
            chunked("e\r\n{\"apiKey\":\"x\"}\r\n0\r\nauthorization: Bearer y\r\n\r\n"),
            &[200],
            true,
        ),
        (
            "chunks in HTTP/1.0",
            chunked(CHUNKS).replace("HTTP/1.1", "HTTP/1.0"),
            &[400],
            false,
        ),
    ];
    all(&local, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_one_reading_or_is_refused() {
    let (local, _client) = start().await;
    let with = |lines: &str| {
        let lines = format!("{lines}content-length: 14\r\n");
        verify(&local, &lines, BODY)
    };
    let token = &local.token;
    let auth = |lines: &str| format!("GET /auth HTTP/1.1\r\nhost: x\r\n{lines}\r\n");
    let cases = vec![
        (
            "a folded header",
            with(&format!("{JSON}x-a: b\r\n c\r\n")),
            &[400][..],
            false,
        ),
        (
            "a space before the colon",
            with(&format!("{JSON}x-a : b\r\n")),
            &[400],
            false,
        ),
        (
            "a space before the name",
            with(&format!("{JSON} x-a: b\r\n")),
            &[400],
            false,
        ),
        ("no colon", with(&format!("{JSON}x-a\r\n")), &[400], false),
        ("a NUL", with(&format!("{JSON}x-a: \0\r\n")), &[400], false),
        (
            "a carriage return",
            with(&format!("{JSON}x-a: b\rc: d\r\n")),
            &[400],
            false,
        ),
        (
            "two tokens",
            with(&format!("{JSON}authorization: Bearer {token}\r\n")),
            &[401],
            true,
        ),
        (
            "two content types",
            with(&format!("{JSON}content-type: text/plain\r\n")),
            &[415],
            true,
        ),
        (
            "the same content type twice",
            with(&format!("{JSON}{JSON}")),
            &[415],
            true,
        ),
        (
            "two tokens of the proxy",
            auth(&format!(
                "x-keyward-token: {token}\r\nx-keyward-token: y\r\napikey: z\r\n"
            )),
            &[503],
            true,
        ),
        (
            "an encoding of another name",
            with(&format!("{JSON}transfer_encoding: chunked\r\n")),
            &[200],
            true,
        ),
        (
            "HTTP/1.0",
            with(JSON).replace("HTTP/1.1", "HTTP/1.0"),
            &[200],
            false,
        ),
        (
            "HTTP/2.0",
            with(JSON).replace("HTTP/1.1", "HTTP/2.0"),
            &[400],
            false,
        ),
        (
            "HTTP/0.9",
            "GET /openapi.json\r\n".to_owned(),
            &[400],
            false,
        ),
        (
            "an empty method",
            with(JSON).replace("POST ", " "),
            &[400],
            false,
        ),
        (
            "two spaces",
            with(JSON).replace("POST ", "POST  "),
            &[400],
            false,
        ),
        (
            "17 KiB of headers",
            with(&format!("{JSON}x-a: {}\r\n", "x".repeat(17 << 10))),
            &[431],
            true,
        ),
        (
            "17 KiB of headers at /auth",
            auth(&format!(
                "x-keyward-token: {token}\r\napikey: z\r\nx-a: {}\r\n",
                "x".repeat(17 << 10)
            )),
            &[503],
            true,
        ),
        (
            "1,000 headers",
            with(&format!("{JSON}{}", "x: y\r\n".repeat(1_000))),
            &[431],
            false,
        ),
        (
            "100 KiB of headers",
            with(&format!("{JSON}x-a: {}\r\n", "x".repeat(100 << 10))),
            &[431],
            false,
        ),
        (
            "h2c",
            with(&format!(
                "{JSON}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
            )),
            &[200],
            true,
        ),
        (
            "websocket",
            with(&format!(
                "{JSON}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            )),
            &[200],
            true,
        ),
        (
            "a body that is announced",
            with(&format!("{JSON}expect: 100-continue\r\n")),
            &[100, 200],
            true,
        ),
        (
            "a stranger's body that is announced",
            with(&format!("{JSON}expect: 100-continue\r\n")).replace("Bearer", "Basic"),
            &[401],
            true,
        ),
    ];
    all(&local, cases).await;
}

/// The body of a refused request is not read as a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_is_no_request() {
    let (local, _client) = start().await;
    let port = local.app.rest_address().unwrap();
    let inner = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(3);
    let sized = format!("content-length: {}\r\n", inner.len());
    let whole = verify(&local, &format!("{JSON}{sized}"), &inner);
    let stranger = whole.replace("Bearer", "Basic");
    for (bytes, status) in [
        (stranger.clone(), 401),
        (stranger.replace("keys:verify", "nothing"), 404),
        (stranger.replace("POST", "PUT"), 405),
        (stranger.replace("/v1/keys:verify", "/openapi.json"), 405),
        (stranger.replace("/v1/keys:verify", "/auth"), 503),
        (whole.replace(JSON, ""), 415),
        (whole.clone(), 400),
    ] {
        let (answers, _) = answers(port, bytes).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [status], "{answers:?}");
    }
    is_honest(&local).await;
}

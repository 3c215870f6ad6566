//! Paths and methods that no route has, and many requests in one write.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_taken_as_it_is_written() {
    let (local, client) = start().await;
    let port = local.app.rest_address().unwrap();
    let (id, key) = client.issue("42", "").await.unwrap();
    let escaped = id.replace('-', "%2D");
    let long = format!("/v1/keys/{}", "x".repeat(20 << 10));
    let very_long = format!("/v1/keys/{}", "x".repeat(100 << 10));
    let mut wrong = Vec::new();
    for (target, wanted) in [
        (&*format!("/v1/keys/{id}"), 200),
        (&format!("/v1/keys/{escaped}"), 200),
        (&format!("http://elsewhere.example/v1/keys/{id}"), 200),
        (&format!("HTTPS://x:1/v1/keys/{id}"), 200),
        (&format!("//v1/keys/{id}"), 404),
        (&format!("/v1//keys/{id}"), 404),
        (&format!("/v1/keys/{id}/"), 404),
        (&format!("/v1/./keys/{id}"), 404),
        (&format!("/v1/x/../keys/{id}"), 404),
        (&format!("/v1/%6beys/{id}"), 404),
        (&format!("/v1%2fkeys%2f{id}"), 404),
        (&format!("/v1/keys/x%2F..%2F{id}"), 400),
        (&format!("/v1/keys/{id}%00"), 400),
        (&format!("/v1/keys/{key}"), 400),
        ("/v1/keys/..", 400),
        ("/v1/keys/%2e%2e", 400),
        ("/v1/keys/%00", 400),
        ("/v1/keys/%ff", 400),
        ("/v1/keys/%", 400),
        ("/v1/keys/", 400),
        ("/v1/keys/{}", 400),
        ("/auth/", 404),
        ("/AUTH", 404),
        ("/%61uth", 404),
        ("/auth;x", 404),
        ("/openapi.json/", 404),
        ("/", 404),
        ("*", 404),
        ("x", 404),
        ("keyward:80", 404),
        (&long, 431),
        (&very_long, 431),
    ] {
        let token = &local.token;
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        let (answers, _) = answers(port, request).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        let repeats =
            |answer: &HttpAnswer| answer.body.contains(&key) || answer.body.contains(token);
        if statuses != [wanted] || answers.iter().any(repeats) {
            let target = &target[..target.len().min(80)];
            wrong.push((target.to_owned(), wanted, answers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The pattern of a route is no path without an id, which the body could then name.
    let body = format!("{{\"keyId\":\"{id}\",\"scopes\":[\"x\"]}}");
    let patch = verify(
        &local,
        &format!("{JSON}content-length: {}\r\n", body.len()),
        &body,
    )
    .replace(
        "POST /v1/keys:verify",
        "PATCH /v1/keys/{}?updateMask=scopes",
    );
    let (answers, _) = answers(port, patch).await;
    assert_eq!(answers[0].status, 400, "{answers:?}");
    assert!(client.get(&id).await.unwrap().scopes.is_empty());
    is_honest(&local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_path_does_not_have_is_refused() {
    let (local, client) = start().await;
    let port = local.app.rest_address().unwrap();
    let (id, key) = client.issue("42", "").await.unwrap();
    let (get, one) = ("GET", &*format!("/v1/keys/{id}"));
    let token = &local.token;
    let mut wrong = Vec::new();
    for (path, methods) in [
        ("/v1/keys:verify", &["POST"][..]),
        (one, &["GET", "HEAD"]),
        ("/openapi.json", &["GET", "HEAD"]),
        ("/nothing", &[]),
        (
            "/auth",
            &["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "X-%$"],
        ),
    ] {
        for method in [
            get, "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "X-%$",
        ] {
            let mut wire = Wire::open(port).await;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
                 x-keyward-token: {token}\r\napikey: {key}\r\nx-trace: of-this-request\r\n\r\n"
            );
            wire.send(head).await;
            let answer = wire.response(method == "HEAD").await;
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            let is_right = match (path, methods.contains(&method)) {
                // It takes the token of the proxy alone; `authorization` is the client's.
                ("/auth", true) => status == 401,
                (_, true) => status == 200,
                ("/nothing", false) => status == 404,
                // A path is no target of CONNECT.
                _ => [400, 401, 405].contains(&status) && (method == "CONNECT" || status == 405),
            };
            let shows = answer
                .as_ref()
                .is_some_and(|answer| answer.body.contains("of-this-request"));
            if !is_right || shows {
                wrong.push((method, path, answer));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    is_honest(&local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_write_are_answered_in_their_order() {
    let (local, _client) = start().await;
    let port = local.app.rest_address().unwrap();
    let one = |n: usize| {
        let lines = format!("{JSON}content-length: 14\r\nx-request-id: {n}\r\n");
        verify(&local, &lines, BODY)
    };
    let (answers, kept) = answers(port, (0..50).map(one).collect::<String>()).await;
    let ids = answers
        .iter()
        .map(|answer| answer.header("x-request-id").unwrap().to_owned());
    assert_eq!(
        ids.collect::<Vec<_>>(),
        (0..50).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    assert!(
        kept && answers.iter().all(|answer| answer.status == 200),
        "{answers:?}"
    );
}

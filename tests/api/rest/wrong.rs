//! Wrong requests to the JSON port get clear errors, which contain no value of the request.

use super::*;

const JSON: &str = "content-type: application/json";

/// An error of this status that says so, and no more.
fn check(answer: &HttpAnswer, status: u16, says: &str, what: &str) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert!(answer.body.contains(says), "{what}: {answer:?}");
    assert!(!answer.body.contains("kw_secret"), "{answer:?}");
    let error: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(
        error["code"].as_u64().is_some_and(|code| code > 0),
        "{answer:?}"
    );
    assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    assert_eq!(answer.header("allow").is_some(), status == 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_clear_errors() {
    let (local, client) = start().await;
    let curl = Curl::new(&local);
    let (id, key) = client.issue("42", "").await.unwrap();
    let deep = format!(
        r#"{{"metadata":{}{}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let verify = "/v1/keys:verify";
    for (path, body, says) in [
        (
            verify,
            r#"{"apikey":"x"}"#,
            "VerifyRequest has no field 'apikey'",
        ),
        (
            verify,
            r#"{"apiKey":"x","apiKey":"y"}"#,
            "the field 'api_key' is given twice",
        ),
        (
            verify,
            r#"{"apiKey":"x","api_key":"y"}"#,
            "the field 'api_key' is given twice",
        ),
        (verify, r#"{"apiKey":7}"#, "apiKey: takes a string"),
        (
            verify,
            r#"{"apiKey":"x","consistency":"MAYBE"}"#,
            "consistency: ",
        ),
        (
            verify,
            r#"{"apiKey":"x","requiredScopes":"kw_secret"}"#,
            "requiredScopes: takes a list",
        ),
        (verify, r#"{"apiKey":NaN}"#, "cannot be decoded"),
        (verify, r#"["apiKey"]"#, "body: takes"),
        (verify, r#"{"apiKey":"x"} {}"#, "cannot be decoded"),
        (verify, r#"{"apiKey":"x""#, "cannot be decoded"),
        (verify, "", "the body is empty"),
        (
            "/v1/keys:verify?apiKey=kw_secret",
            "{}",
            "from the body, not from the query",
        ),
        (
            "/v1/keys:verifyBatch",
            r#"{"requests":[{},{"x":1}]}"#,
            "VerifyRequest has no field 'x'",
        ),
        (
            "/v1/keys:verifyBatch",
            r#"{"requests":[{},{"clientIp":"a"}]}"#,
            "requests[1].client_ip",
        ),
        ("/v1/keys:issue", &deep, "recursion limit"),
        (
            "/v1/keys:issue",
            r#"{"accountId":"1","expireTime":"soon"}"#,
            "expireTime: ",
        ),
        ("/v1/keys:issue", r#"{"accountId":"1","ttl":"1h"}"#, "ttl: "),
        (
            "/v1/keys:issue",
            r#"{"accountId":"1","ttl":"60s","expireTime":"2100-01-01T00:00:00Z"}"#,
            "ttl",
        ),
        (
            "/v1/keys:issue",
            r#"{"accountId":"1","metadata":{"a":"b","a":"c"}}"#,
            "the field 'a' is given twice",
        ),
    ] {
        let answer = curl.ask("POST", path, &[JSON], body).await;
        check(
            &answer,
            400,
            says,
            &format!("{path} {}", &body[..body.len().min(80)]),
        );
    }
    for (method, path, headers, status, says) in [
        (
            "POST",
            verify,
            &[][..],
            415,
            "content-type: application/json",
        ),
        (
            "POST",
            verify,
            &["content-type: text/plain"],
            415,
            "content-type: application/json",
        ),
        (
            "GET",
            "/v1/keys?account_id=42&page_size=9007199254740993",
            &[],
            400,
            "page_size: ",
        ),
        (
            "GET",
            "/v1/keys?account_id=42&account_id=43",
            &[],
            400,
            "account_id: this field is given twice",
        ),
        (
            "GET",
            "/v1/keys?account_id=42&includeRevoked=yes",
            &[],
            400,
            "include_revoked: takes a boolean",
        ),
        (
            "GET",
            "/v1/keys?account=42",
            &[],
            400,
            "account: this field does not exist",
        ),
        (
            "GET",
            "/v1/keys?account_id=%FF",
            &[],
            400,
            "the query is not UTF-8",
        ),
        ("GET", "/v1/keys/%FF", &[], 400, "the path is not UTF-8"),
        ("GET", "/v1/keys/a%2Fb", &[], 400, "key_id: "),
        ("GET", "/v1/keys/%00", &[], 400, "key_id: "),
        ("GET", "/v1/keys/..", &[], 400, "key_id: "),
        ("GET", "/v1/keys/../tokens", &[], 404, "there is no route"),
        (
            "GET",
            "/v1/keys/x?api_key=kw_secret",
            &[],
            400,
            "a secret is taken from a body only",
        ),
        (
            "GET",
            "/v1/keys/01890000-0000-7000-8000-000000000000",
            &[],
            404,
            "KEY_NOT_FOUND",
        ),
        (
            "PATCH",
            &format!("/v1/keys/{id}?updateMask=name"),
            &[JSON],
            400,
            "update_mask",
        ),
        (
            "POST",
            verify,
            &[JSON, "content-encoding: gzip"],
            415,
            "not compressed",
        ),
        ("DELETE", &format!("/v1/keys/{id}"), &[], 405, "GET, PATCH"),
        ("BREW", verify, &[JSON], 405, "POST"),
        ("GET", "/", &[], 404, "there is no route /"),
        (
            "GET",
            "/v1/tokens",
            &["authorization: Bearer kw_other"],
            401,
            "TOKEN_INVALID",
        ),
        (
            "POST",
            verify,
            &[JSON, "grpc-timeout: soon"],
            400,
            "grpc-timeout",
        ),
        (
            "POST",
            verify,
            &[JSON, "grpc-timeout: 0n"],
            504,
            "DEADLINE_PASSED",
        ),
    ] {
        let body = if method == "GET" { "" } else { "{}" };
        let answer = curl.ask(method, path, headers, body).await;
        check(&answer, status, says, &format!("{method} {path}"));
    }
    let path = format!("/v1/keys/{id}?updateMask=disabled");
    let answer = curl
        .ask("PATCH", &path, &[JSON], r#"{"keyId":"other"}"#)
        .await;
    check(&answer, 400, "key_id: is not the one in the path", &path);
    let many = format!("x-padding: {}", "x".repeat(20 << 10));
    let answer = curl.ask("POST", verify, &[JSON, &many], "{}").await;
    check(&answer, 431, "HEADERS_TOO_LARGE", "large headers");
    let large = format!(r#"{{"apiKey":"{}"}}"#, "x".repeat(2 << 20));
    assert_eq!(
        curl.ask("POST", verify, &[JSON, "expect:"], &large)
            .await
            .status,
        413
    );
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    local.app.stop().await;
}

//! The seeds of the target `http`.

use std::collections::BTreeMap;

use keyward_fuzz::http::{raw, request, token_marker};
use keyward_fuzz::requests::{Caller, Named, id_marker, text_marker};

use super::Seeds;

pub(crate) fn http() -> Seeds {
    let (live, id) = (text_marker(Named::Live), id_marker(Named::Live));
    let every = Caller::Every;
    let post = |path: &str, body: &str| request("POST", path, every, 0, body);
    let verify = format!(r#"{{"apiKey":"{live}"}}"#);
    let token = token_marker();
    let head =
        format!("POST /v1/keys:verify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    let json = "content-type: application/json\r\n";
    BTreeMap::from([
        (
            "issue",
            post(
                "/v1/keys:issue",
                r#"{"accountId":"fuzz","name":"a","ttl":"60s","scopes":["read"]}"#,
            ),
        ),
        ("verify", post("/v1/keys:verify", &verify)),
        (
            "verify-revoked",
            post(
                "/v1/keys:verify",
                &format!(r#"{{"api_key":"{}"}}"#, text_marker(Named::Revoked)),
            ),
        ),
        (
            "verify-disabled",
            request(
                "POST",
                "/v1/keys:verify",
                every,
                2,
                &format!(r#"{{"apiKey":"{}"}}"#, text_marker(Named::Disabled)),
            ),
        ),
        (
            "batch",
            request(
                "POST",
                "/v1/keys:verifyBatch",
                every,
                3,
                &format!(r#"{{"requests":[{verify},{verify}]}}"#),
            ),
        ),
        (
            "get",
            request("GET", &format!("/v1/keys/{id}"), every, 0, ""),
        ),
        ("get-by-text", post("/v1/keys:get", &verify)),
        (
            "update",
            request(
                "PATCH",
                &format!("/v1/keys/{id}?updateMask=scopes,disabled"),
                every,
                0,
                r#"{"scopes":["a"],"disabled":true}"#,
            ),
        ),
        (
            "list",
            request(
                "GET",
                "/v1/keys?accountId=fuzz-1&pageSize=2&includeRevoked=true",
                every,
                0,
                "",
            ),
        ),
        ("tokens", request("GET", "/v1/tokens", every, 0, "")),
        (
            "create-token",
            post("/v1/tokens", r#"{"name":"x","roles":["ROLE_VERIFIER"]}"#),
        ),
        (
            "revoke",
            post(
                "/v1/keys:revoke",
                &format!(r#"{{"keyId":"{id}","reason":"x","replace":true,"grace":"1s"}}"#),
            ),
        ),
        ("auth", request("GET", "/auth", every, 0, "")),
        ("auth-live", {
            let mut auth = request("GET", "/auth", every, 0, "");
            // The same caller, and the third key.
            auth[3] = 10;
            auth
        }),
        (
            "auth-scope",
            request("POST", "/auth?scope=read&scope=a%20b", every, 0, "x"),
        ),
        (
            "document",
            request("GET", "/openapi.json", Caller::Nobody, 0, ""),
        ),
        (
            "nobody",
            request("POST", "/v1/keys:verify", Caller::Nobody, 0, &verify),
        ),
        (
            "reader",
            request("POST", "/v1/keys:issue", Caller::Reader, 1, "{}"),
        ),
        (
            "nothing",
            request("OPTIONS", "/x/%2e%2e/%00", Caller::Former, 0, ""),
        ),
        (
            "raw",
            raw(&format!(
                "{head}{json}content-length: {}\r\n\r\n{verify}",
                verify.len()
            )),
        ),
        (
            "raw-chunks",
            raw(&format!(
                "{head}{json}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            )),
        ),
        (
            "raw-both",
            raw(&format!(
                "{head}{json}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            )),
        ),
        (
            "raw-half",
            raw(&format!("{head}{json}content-length: 50\r\n\r\n{{")),
        ),
        (
            "raw-http2",
            raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ),
        ("raw-old", raw("GET /openapi.json HTTP/1.0\r\n\r\n")),
    ])
}

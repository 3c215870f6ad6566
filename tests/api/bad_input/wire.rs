//! Bytes that are not a request, and requests that are too large.

use keyward_proto::v1::Verdict;
use keyward_testkit::invalid_fields;
use keyward_testkit::raw::{RawClient, frame};
use prost::bytes::Bytes;
use tonic::{Code, Status};

use super::*;

/// The fields of which a Revoke takes exactly one; a Get takes one of the first two.
const TARGETS: [&str; 3] = ["key_id", "api_key", "account_id"];

/// Sends `bytes` as the body of a call of `ApiKeyService`, with the token.
async fn send_frame(local: &Local, method: &str, bytes: &[u8]) -> Result<Bytes, Status> {
    let client = RawClient::connect(local.app.grpc_address()).await;
    let path = format!("/keyward.v1.ApiKeyService/{method}");
    let bearer = format!("Bearer {}", local.token);
    let headers = [
        ("authorization", bearer.as_str()),
        ("grpc-encoding", "gzip"),
    ];
    client.call(&path, &headers, bytes.to_vec()).await.message()
}

/// Sends `bytes` as the request of a method of `ApiKeyService`, with the token.
async fn send(local: &Local, method: &str, bytes: &[u8]) -> Result<Bytes, Status> {
    send_frame(local, method, &frame(bytes)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_and_broken_messages_are_the_callers_fault() {
    let (local, client) = start().await;
    // Field 1, a text; field 4, a map from text to text.
    for (method, bytes) in [
        ("Issue", &b"\x0a\x02a\xff"[..]),
        ("Issue", b"\x0a\x0242\x22\x06\x0a\x01k\x12\x01\xff"),
        ("Verify", b"\x0a\x01\xc3"),
        ("Revoke", b"\x0a\x01\xff"),
        ("Revoke", b"\x1a\x01\xff"),
        ("Get", b"\x12\x01\xff"),
        ("List", b"\x0a\x01\xff"),
        ("Verify", b"\x0a\x05ab"),
        ("Verify", b"\x08\x01"),
        ("Verify", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("VerifyBatch", b"\x0a\x03\x0a\x01\xff"),
        ("Update", b"\x0a\x03\x0a\x01\xff"),
    ] {
        let status = send(&local, method, bytes).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{method} {bytes:?}: {status}"
        );
        assert!(status.message().contains("be decoded"), "{status}");
    }
    client.issue("42", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_frame_is_the_callers_fault() {
    let (local, _client) = start().await;
    for (bytes, why) in [
        (&b""[..], "no message"),
        (b"\0\0", "half a prefix"),
        (b"\0\0\0\0\x05\x0a", "half a message"),
        (b"\x02\0\0\0\0", "an unknown kind of compression"),
        (b"\x01\0\0\0\x03abc", "not gzip"),
    ] {
        let status = send_frame(&local, "Verify", bytes).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{why}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_passed_over() {
    let (local, _client) = start().await;
    // Field 1: "x"; field 99: 1.
    send(&local, "Verify", b"\x0a\x01x\x98\x06\x01")
        .await
        .unwrap();
}

/// A field of text with this number.
fn text(number: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&[number << 3 | 2, length], value.as_bytes()].concat()
}

/// Two targets in any order revoke nothing, neither the last one nor the first one.
#[tokio::test(flavor = "multi_thread")]
async fn several_targets_are_refused_and_revoke_nothing() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let (_, sibling) = client.issue("42", "sibling").await.unwrap();
    let [by_id, by_text, by_account] = [text(1, &id), text(2, &key), text(3, "42")];
    for (method, targets, fields) in [
        ("Revoke", vec![&by_id, &by_account], &TARGETS[..]),
        ("Revoke", vec![&by_account, &by_id], &TARGETS),
        ("Revoke", vec![&by_text, &by_account], &TARGETS),
        ("Revoke", vec![&by_account, &by_text], &TARGETS),
        ("Revoke", vec![&by_id, &by_text], &TARGETS),
        ("Revoke", vec![&by_id, &by_text, &by_account], &TARGETS),
        ("Revoke", vec![], &TARGETS),
        ("Get", vec![&by_id, &by_text], &TARGETS[..2]),
        ("Get", vec![&by_text, &by_id], &TARGETS[..2]),
        ("Get", vec![], &TARGETS[..2]),
    ] {
        let bytes: Vec<u8> = targets.into_iter().flatten().copied().collect();
        invalid_fields(send(&local, method, &bytes).await, fields);
    }
    for key in [&key, &sibling] {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
    }
    // An empty text is not a target, and of a repeated field the last value counts.
    let bytes = [text(2, ""), text(3, "42"), text(3, "nobody")].concat();
    send(&local, "Revoke", &bytes).await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_a_mebibyte_is_out_of_range() {
    let (_local, client) = start().await;
    // Tag and length take four bytes.
    let just = "x".repeat((1 << 20) - 4);
    let reply = client.send(verifying(&just)).await.unwrap();
    assert_eq!(reply.verdict(), Verdict::Malformed);
    for bytes in [(1 << 20) - 3, 3 << 20] {
        let status = client.verify(&"x".repeat(bytes)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
    client.issue("42", "").await.unwrap();
}

//! Invalid page tokens and sizes, batches, addresses and enum values.

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::invalid;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn page_tokens_of_another_query() {
    let (_local, client) = start().await;
    for account in ["42", "43"] {
        for slot in ["a", "b", "c"] {
            client.issue(account, slot).await.unwrap();
        }
    }
    client.token("reader", &[v1::Role::Reader]).await.unwrap();
    let list = async |account: &str, include_revoked, page_size, page_token: &str| {
        let request = v1::ListRequest {
            account_id: account.to_owned(),
            include_revoked,
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        client.send(request).await
    };
    let list_tokens = async |include_revoked, page_size, page_token: &str| {
        let request = v1::ListTokensRequest {
            include_revoked,
            page_size,
            page_token: page_token.to_owned(),
        };
        client.send(request).await
    };
    let of_keys = list("42", false, 1, "").await.unwrap().next_page_token;
    let of_tokens = list_tokens(false, 1, "").await.unwrap().next_page_token;
    assert!(!of_keys.is_empty() && !of_tokens.is_empty());

    invalid(list("43", false, 1, &of_keys).await, "page_token");
    invalid(list("42", true, 1, &of_keys).await, "page_token");
    invalid(list_tokens(true, 1, &of_tokens).await, "page_token");
    invalid(list_tokens(false, 1, &of_keys).await, "page_token");
    let longer = format!("{of_keys}AAAA");
    let garbage = [
        "x",
        "garbage",
        "é",
        " ",
        &of_keys[1..],
        &longer,
        &of_tokens,
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    for garbage in garbage {
        invalid(list("42", false, 1, garbage).await, "page_token");
    }
    invalid(list("42", false, -1, "").await, "page_size");
    invalid(list("42", false, i32::MIN, &of_keys).await, "page_size");
    invalid(list_tokens(false, -1, "").await, "page_size");
    list("42", false, 1, &of_keys).await.unwrap();
    list_tokens(false, 1, &of_tokens).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches() {
    let (_local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let batch = async |requests| {
        let request = v1::VerifyBatchRequest { requests };
        client.send(request).await
    };
    invalid(batch(vec![verifying(&key); 257]).await, "requests");
    let mut requests = vec![verifying(&key); 5];
    requests[3].client_ip = "nowhere".to_owned();
    invalid(batch(requests.clone()).await, "requests[3].client_ip");
    requests[3] = verifying(&key);
    requests[4].required_scopes = vec!["a b".to_owned()];
    invalid(batch(requests.clone()).await, "requests[4].required_scopes");
    requests[4] = v1::VerifyRequest {
        consistency: 9,
        ..verifying(&key)
    };
    invalid(batch(requests.clone()).await, "requests[4].consistency");
    requests[4] = verifying("");
    let reply = batch(requests).await.unwrap();
    assert_eq!(reply.responses[4].verdict(), Verdict::Malformed);
    assert_eq!(reply.responses[3].verdict(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses() {
    let (_local, client) = start().await;
    for client_ip in [
        "x",
        "10.0.0.1:80",
        "10.0.0.1/32",
        "[::1]",
        "[::1]:80",
        "fe80::1%eth0",
        "10.0.0",
        " 10.0.0.1",
        "010.0.0.1",
        "localhost",
    ] {
        let request = v1::VerifyRequest {
            client_ip: client_ip.to_owned(),
            ..verifying("x")
        };
        invalid(client.send(request).await, "client_ip");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_enum_values() {
    let (_local, client) = start().await;
    for consistency in [3, -1, i32::MAX] {
        let request = v1::VerifyRequest {
            consistency,
            ..verifying("x")
        };
        invalid(client.send(request).await, "consistency");
    }
    for role in [0, 10, -1] {
        let request = v1::CreateTokenRequest {
            name: "x".to_owned(),
            roles: vec![role],
            ..Default::default()
        };
        let outcome = client.send(request).await;
        invalid(outcome, "roles");
    }
}

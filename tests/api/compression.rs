//! Compressed requests, and which answers are compressed.

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_testkit::raw::{RawClient, frame};
use keyward_testkit::{undoing, uuid_v4};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codec::CompressionEncoding::Gzip;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_request_is_read() {
    let (_local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let mut keys = client.keys.clone().send_compressed(Gzip);
    let answer = keys.verify(verifying(&key)).await.unwrap().into_inner();
    assert_eq!(answer.verdict(), Verdict::Valid);
    let mut admin = client.admin.clone().send_compressed(Gzip);
    let request = v1::ListTokensRequest::default();
    assert!(admin.list_tokens(request).await.is_ok());
}

/// The limit holds for the message, not only for its compressed bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_grows_over_a_mebibyte_is_refused() {
    let (_local, client) = start().await;
    let mut keys = client.keys.clone().send_compressed(Gzip);
    // Tag and length take four bytes.
    let just = "x".repeat((1 << 20) - 4);
    let answer = keys.verify(verifying(&just)).await.unwrap().into_inner();
    assert_eq!(answer.verdict(), Verdict::Malformed);
    for bytes in [(1 << 20) - 3, 100 << 20] {
        let outcome = keys.verify(verifying(&"\0".repeat(bytes))).await;
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
}

/// An answer with a secret is never compressed: its length would depend on the secret.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_answers_of_list_are_compressed() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let (updated, _) = client.issue("43", "").await.unwrap();
    let made = client.send(creating_token("old", &[Role::Verifier])).await;
    let token_id = made.unwrap().caller_token.unwrap().token_id;
    let raw = RawClient::connect(local.app.grpc_address()).await;
    let bearer = format!("Bearer {}", local.token);
    let headers = [
        ("authorization", bearer.as_str()),
        ("grpc-accept-encoding", "gzip,identity"),
    ];
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let services = files.iter().flat_map(|file| {
        let services = file.service.iter();
        services.map(|service| (format!("{}.{}", file.package(), service.name()), service))
    });
    for (name, service) in services {
        let unary = service
            .method
            .iter()
            .filter(|method| !method.server_streaming());
        for method in unary.map(|method| method.name()) {
            let message = match method {
                "Issue" => slot("44").encode_to_vec(),
                "Revoke" => replacing(&id).encode_to_vec(),
                "Verify" => verifying(&key).encode_to_vec(),
                "VerifyBatch" => v1::VerifyBatchRequest::default().encode_to_vec(),
                "Get" => getting(&id).encode_to_vec(),
                "List" => listing("43").encode_to_vec(),
                "Update" => disabling(&updated, true).encode_to_vec(),
                "CreateToken" => creating_token("new", &[Role::Issuer]).encode_to_vec(),
                "ListTokens" => v1::ListTokensRequest::default().encode_to_vec(),
                "RevokeToken" => revoking_token(&token_id).encode_to_vec(),
                "UndoImport" => undoing(&uuid_v4()).encode_to_vec(),
                "ExportKeys" => v1::ExportKeysRequest::default().encode_to_vec(),
                "GetKeyringStatus" => v1::GetKeyringStatusRequest {}.encode_to_vec(),
                "ActivateKeyringKey" => {
                    let (kind, number) = (v1::KeyringKeyKind::Seal.into(), 1);
                    v1::ActivateKeyringKeyRequest { kind, number }.encode_to_vec()
                }
                // Refused here.
                "ImportKeys" | "RetireKeyringKey" | "TestWebhook" | "ReplayWebhook" => continue,
                "EraseAccount" => {
                    let account_id = "nobody".to_owned();
                    v1::EraseAccountRequest { account_id }.encode_to_vec()
                }
                "ListAuditEvents" => v1::ListAuditEventsRequest::default().encode_to_vec(),
                "VerifyAudit" => v1::VerifyAuditRequest::default().encode_to_vec(),
                "ListWebhooks" => v1::ListWebhooksRequest {}.encode_to_vec(),
                "Check" => checking("").encode_to_vec(),
                other => panic!("{other} needs a request here"),
            };
            let path = format!("/{name}/{method}");
            let answer = raw.call(&path, &headers, frame(&message)).await;
            let encoding = answer.headers.get("grpc-encoding").cloned();
            assert_eq!(answer.status.code(), Code::Ok, "{path}: {}", answer.status);
            let is_list = method == "List";
            assert_eq!(answer.frame[0], u8::from(is_list), "{path}");
            assert_eq!(encoding.is_some(), is_list, "{path}: {encoding:?}");
        }
    }
}

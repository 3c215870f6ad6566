//! Each role allows exactly its RPCs.

use keyward_proto::v1::{self, Role};
use keyward_testkit::{Client, Local, importing, refused, undoing};
use tonic::{Code, Status};

use super::*;

/// Every RPC, Revoke once for each of its targets.
#[derive(Clone, Copy, Debug)]
enum Rpc {
    Issue,
    RevokeId,
    RevokeText,
    RevokeAccount,
    Verify,
    VerifyBatch,
    Get,
    List,
    Update,
    CreateToken,
    ListTokens,
    RevokeToken,
    ImportKeys,
    UndoImport,
    ExportKeys,
    GetKeyringStatus,
    ActivateKeyringKey,
    RetireKeyringKey,
    EraseAccount,
    ListAuditEvents,
    VerifyAudit,
    ListWebhooks,
    TestWebhook,
    ReplayWebhook,
}

/// Each RPC, who may call it, and which role a refusal asks for.
const TABLE: [(Rpc, &[Role], &str); 24] = [
    (Rpc::Issue, &[Role::Issuer], "issuer"),
    (Rpc::RevokeId, &[Role::Issuer], "issuer"),
    (Rpc::RevokeText, &[Role::Issuer, Role::Reporter], "issuer"),
    (Rpc::RevokeAccount, &[Role::Issuer], "issuer"),
    (Rpc::Verify, &[Role::Verifier], "verifier"),
    (Rpc::VerifyBatch, &[Role::Verifier], "verifier"),
    (Rpc::Get, &[Role::Reader], "reader"),
    (Rpc::List, &[Role::Reader], "reader"),
    (Rpc::Update, &[Role::Editor], "editor"),
    (Rpc::CreateToken, &[Role::Admin], "admin"),
    (Rpc::ListTokens, &[Role::Admin], "admin"),
    (Rpc::RevokeToken, &[Role::Admin], "admin"),
    (Rpc::ImportKeys, &[Role::Admin], "admin"),
    (Rpc::UndoImport, &[Role::Admin], "admin"),
    (Rpc::ExportKeys, &[Role::Admin], "admin"),
    (Rpc::GetKeyringStatus, &[Role::Admin], "admin"),
    (Rpc::ActivateKeyringKey, &[Role::Admin], "admin"),
    (Rpc::RetireKeyringKey, &[Role::Admin], "admin"),
    (Rpc::EraseAccount, &[Role::Admin], "admin"),
    (Rpc::ListAuditEvents, &[Role::Auditor], "auditor"),
    (Rpc::VerifyAudit, &[Role::Auditor], "auditor"),
    (Rpc::ListWebhooks, &[Role::Admin], "admin"),
    (Rpc::TestWebhook, &[Role::Admin], "admin"),
    (Rpc::ReplayWebhook, &[Role::Admin], "admin"),
];

const ROLES: [Role; 8] = [
    Role::Issuer,
    Role::Verifier,
    Role::Revealer,
    Role::Reader,
    Role::Editor,
    Role::Reporter,
    Role::Admin,
    Role::Auditor,
];

/// Calls `rpc` with a valid request about an unknown key or account.
async fn call(client: &Client, rpc: Rpc) -> Result<(), Status> {
    match rpc {
        Rpc::Issue => client.send(slot("42")).await.map(drop),
        Rpc::RevokeId => client.send(by_id(UNKNOWN)).await.map(drop),
        Rpc::RevokeText => client.send(by_text("kw_x")).await.map(drop),
        Rpc::RevokeAccount => client.send(by_account("nobody")).await.map(drop),
        Rpc::Verify => client.send(verifying("kw_x")).await.map(drop),
        Rpc::VerifyBatch => {
            let requests = vec![verifying("kw_x")];
            let request = v1::VerifyBatchRequest { requests };
            client.send(request).await.map(drop)
        }
        Rpc::Get => client.send(getting(UNKNOWN)).await.map(drop),
        Rpc::List => client.send(listing("42")).await.map(drop),
        Rpc::Update => client.send(disabling(UNKNOWN, false)).await.map(drop),
        Rpc::CreateToken => client.token("made", &[Role::Reader]).await.map(drop),
        Rpc::ListTokens => {
            let request = v1::ListTokensRequest::default();
            client.send(request).await.map(drop)
        }
        Rpc::RevokeToken => client.send(revoking_token(UNKNOWN)).await.map(drop),
        Rpc::ImportKeys => client.send(importing([])).await.map(drop),
        Rpc::UndoImport => client.send(undoing(UNKNOWN)).await.map(drop),
        Rpc::ExportKeys => {
            let request = v1::ExportKeysRequest::default();
            client.send(request).await.map(drop)
        }
        Rpc::GetKeyringStatus => {
            let request = v1::GetKeyringStatusRequest {};
            client.send(request).await.map(drop)
        }
        Rpc::ActivateKeyringKey => {
            let (kind, number) = (v1::KeyringKeyKind::Seal.into(), 9);
            let request = v1::ActivateKeyringKeyRequest { kind, number };
            client.send(request).await.map(drop)
        }
        Rpc::RetireKeyringKey => {
            let (kind, number) = (v1::KeyringKeyKind::Seal.into(), 9);
            let request = v1::RetireKeyringKeyRequest { kind, number };
            client.send(request).await.map(drop)
        }
        Rpc::EraseAccount => {
            let account_id = "nobody".to_owned();
            let request = v1::EraseAccountRequest { account_id };
            client.send(request).await.map(drop)
        }
        Rpc::ListAuditEvents => {
            let request = v1::ListAuditEventsRequest::default();
            client.send(request).await.map(drop)
        }
        Rpc::VerifyAudit => {
            let request = v1::VerifyAuditRequest::default();
            client.send(request).await.map(drop)
        }
        Rpc::ListWebhooks => client.send(v1::ListWebhooksRequest {}).await.map(drop),
        Rpc::TestWebhook => client.send(testing("nobody")).await.map(drop),
        Rpc::ReplayWebhook => client.send(replaying("nobody")).await.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_allows_exactly_its_rpcs() {
    let (local, _) = import::start().await;
    for role in ROLES {
        let client = local.client_as(&[role]).await;
        for (rpc, allowed, needed) in TABLE {
            let outcome = call(&client, rpc).await;
            if allowed.contains(&role) {
                let code = outcome.err().map(|status| status.code());
                let fine = matches!(code, None | Some(Code::NotFound));
                assert!(fine, "{role:?} may {rpc:?}: {code:?}");
            } else {
                let why = refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
                assert_eq!(why["role"], needed, "{role:?} may not {rpc:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_takes_a_token() {
    let local = Local::start().await;
    let nobody = Client::new(local.app.grpc_address(), None).await;
    for (rpc, ..) in TABLE {
        let outcome = call(&nobody, rpc).await;
        refused(outcome, Code::Unauthenticated, "TOKEN_MISSING");
    }
}

/// The role check comes first: a bad request reveals nothing to a caller without the role.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_is_checked_before_the_request() {
    let local = Local::start().await;
    let reader = local.client_as(&[Role::Reader]).await;
    let outcome = reader.send(slot("")).await;
    refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
}

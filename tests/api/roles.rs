//! Each role allows exactly its RPCs.

use keyward_proto::v1::{self, Role, get_request};
use keyward_testkit::{Client, Local, refused};
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
}

/// Each RPC, who may call it, and which role a refusal asks for.
const TABLE: [(Rpc, &[Role], &str); 12] = [
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
];

const ROLES: [Role; 7] = [
    Role::Issuer,
    Role::Verifier,
    Role::Revealer,
    Role::Reader,
    Role::Editor,
    Role::Reporter,
    Role::Admin,
];

const UNKNOWN: &str = "01890000-0000-7000-8000-000000000000";

/// Calls `rpc` with a good request, about something that is not there.
async fn call(client: &Client, rpc: Rpc) -> Result<(), Status> {
    let (mut keys, mut admin) = (client.keys.clone(), client.admin.clone());
    match rpc {
        Rpc::Issue => keys.issue(slot("42")).await.map(drop),
        Rpc::RevokeId => keys.revoke(by_id(UNKNOWN)).await.map(drop),
        Rpc::RevokeText => keys.revoke(by_text("kw_x")).await.map(drop),
        Rpc::RevokeAccount => keys.revoke(by_account("nobody")).await.map(drop),
        Rpc::Verify => keys.verify(asking("kw_x")).await.map(drop),
        Rpc::VerifyBatch => {
            let requests = vec![asking("kw_x")];
            let request = v1::VerifyBatchRequest { requests };
            keys.verify_batch(request).await.map(drop)
        }
        Rpc::Get => {
            let target = Some(get_request::Target::KeyId(UNKNOWN.to_owned()));
            keys.get(v1::GetRequest { target }).await.map(drop)
        }
        Rpc::List => {
            let account_id = "42".to_owned();
            let request = v1::ListRequest {
                account_id,
                ..Default::default()
            };
            keys.list(request).await.map(drop)
        }
        Rpc::Update => {
            let key_id = UNKNOWN.to_owned();
            let key = v1::ApiKey {
                key_id,
                ..Default::default()
            };
            keys.update(changing(key, ["disabled"])).await.map(drop)
        }
        Rpc::CreateToken => {
            let request = v1::CreateTokenRequest {
                name: "made".to_owned(),
                roles: vec![Role::Reader.into()],
            };
            admin.create_token(request).await.map(drop)
        }
        Rpc::ListTokens => {
            let request = v1::ListTokensRequest::default();
            admin.list_tokens(request).await.map(drop)
        }
        Rpc::RevokeToken => {
            let token_id = UNKNOWN.to_owned();
            let request = v1::RevokeTokenRequest { token_id };
            admin.revoke_token(request).await.map(drop)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_allows_exactly_its_rpcs() {
    let local = Local::start().await;
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

/// A bad request tells nothing, and does nothing, before it is known who asks.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_judged_before_what_is_asked() {
    let local = Local::start().await;
    let reader = local.client_as(&[Role::Reader]).await;
    let outcome = issue(&reader, slot("")).await;
    refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
}

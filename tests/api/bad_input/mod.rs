//! Bad input, each through gRPC: a clear error, and nothing acknowledged is lost.

mod callers;
mod clock;
mod crowds;
mod fields;
mod keys;
mod leavers;
mod pages;
mod wire;

use std::path::Path;

use keyward_proto::v1;
use keyward_testkit::{Client, Local};

/// A service, and a client with every role.
async fn start() -> (Local, Client) {
    let local = Local::start().await;
    let client = local.client().await;
    (local, client)
}

/// The slot `default` of an account.
fn slot(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

fn asking(api_key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

/// What a strong read says of a key.
async fn strong(client: &Client, api_key: &str) -> v1::Verdict {
    let request = v1::VerifyRequest {
        consistency: v1::Consistency::Strong.into(),
        ..asking(api_key)
    };
    let verified = client.keys.clone().verify(request).await.unwrap();
    verified.into_inner().verdict()
}

async fn get(client: &Client, key_id: &str) -> v1::ApiKey {
    let target = Some(v1::get_request::Target::KeyId(key_id.to_owned()));
    let found = client.keys.clone().get(v1::GetRequest { target }).await;
    found.unwrap().into_inner().key.unwrap()
}

//! An agent with a client certificate instead of a token.

use std::process::Command;

use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::requests::{creating_token, getting, revoking_token};
use keyward_testkit::{AgentProcess, Client, PATIENCE, Process, eventually, refused};
use tonic::Code;

use super::{ROLES, metric};
use crate::BINARY;
use crate::secure::Secure;

const SAN: &str = "spiffe://corp/agent";

/// Keyward with TLS that trusts client certificates, with a caller of this name and these roles.
async fn keyward(place: &Secure, roles: &[Role]) -> (Process, Client, v1::CallerToken) {
    let mut command = place.command();
    command
        .args(["--tls-client-ca", "ca.crt"])
        .env("KEYWARD_MAX_STALENESS", "2s");
    let process = Process::start(command, &place.data());
    let admin = place.client(&process).await;
    let request = v1::CreateTokenRequest {
        san: SAN.to_owned(),
        ..creating_token("agent", roles)
    };
    let caller = admin.send(request).await.unwrap().caller_token.unwrap();
    (process, admin, caller)
}

/// An agent with sockets and this certificate in files.
fn agent(place: &Secure, keyward: &Process, san: &str) -> Command {
    let own = place.authority.sign_client(&[san], None);
    own.write_as(place.directory(), "agent");
    let endpoint = format!("https://{}", keyward.grpc);
    let mut command = AgentProcess::without_token(BINARY, &endpoint, place.directory());
    AgentProcess::with_sockets(&mut command, place.directory());
    command
        .args(["--ca-file", "ca.crt", "--client-certificate", "agent.crt"])
        .args(["--client-key", "agent.key"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_shows_who_an_agent_is_and_nobody_calls_with_it() {
    let place = Secure::new(&["127.0.0.1"]);
    let (keyward, admin, caller) = keyward(&place, &[&ROLES[..], &[Role::Reader]].concat()).await;
    let agent = AgentProcess::start(agent(&place, &keyward, SAN));
    let program = agent.client(None).await;
    let (id, key) = admin.issue("42", "").await.unwrap();
    for _ in 0..3 {
        assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    }
    assert!(metric(agent.side, "keyward_agent_verify_total{outcome=\"hit\"}").await > 0);

    // What is passed on has the rights of its own token, not those of the certificate.
    let reader = admin.token("reader", &[Role::Reader]).await.unwrap();
    let verifier = admin.token("verifier", &[Role::Verifier]).await.unwrap();
    let get = async |token| agent.client(Some(token)).await.send(getting(&id)).await;
    get(&reader).await.unwrap();
    let outcome = get(&verifier).await;
    refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
    refused(get("kwt_x").await, Code::Unauthenticated, "TOKEN_INVALID");
    let outcome = program.send(getting(&id)).await;
    refused(outcome, Code::PermissionDenied, "AGENT_VERIFIES_ONLY");

    let request = revoking_token(&caller.token_id);
    admin.send(request).await.unwrap();
    let is_cut_off = async || {
        let refused = program.verify(&key).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        agent.output().contains("refuses the agent's own token")
    };
    eventually("the agent says why", PATIENCE, is_cut_off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_start_with_a_certificate_of_no_caller() {
    let place = Secure::new(&["127.0.0.1"]);
    let (keyward, _, _) = keyward(&place, &[Role::Verifier]).await;
    for (san, why) in [
        ("other.example", "CERTIFICATE_INVALID"),
        (SAN, "lacks the role near_cache"),
    ] {
        let (status, output) = Process::run_to_end(&mut agent(&place, &keyward, san));
        assert_eq!(status.code(), Some(1), "{output}");
        for text in [
            why,
            "client_certificate agent.crt",
            "--role near_cache --role verifier --san",
        ] {
            assert!(output.contains(text), "{output}");
        }
    }
    let endpoint = format!("https://{}", keyward.grpc);
    let mut half = AgentProcess::without_token(BINARY, &endpoint, place.directory());
    half.args(["--client-certificate", "agent.crt"]);
    let (status, output) = Process::run_to_end(&mut half);
    assert_eq!(status.code(), Some(64), "{output}");
    assert!(output.contains("need each other"), "{output}");
    let mut none = AgentProcess::without_token(BINARY, &endpoint, place.directory());
    let (status, output) = Process::run_to_end(&mut none);
    assert_eq!(status.code(), Some(64), "{output}");
    assert!(output.contains("token_file"), "{output}");
}

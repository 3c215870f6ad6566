//! What leaked or got lost: a key, a token, the last admin token, the keyring.

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::requests::creating_token;
use keyward_testkit::{Client, Cluster, Options, PATIENCE, Process, eventually};
use tonic::Code;

use super::{Operator, RUNBOOKS, blocks};
use crate::{BINARY, fresh_directory, serve};

/// An operator of the cluster, with the first token and the owner's URL.
fn operator(cluster: &Cluster) -> Operator {
    let mut operator = Operator::new(cluster.directory());
    operator.write("first.token", cluster.token());
    operator.set("KEYWARD_ENDPOINT", format!("http://{}", cluster.grpc(0)));
    operator.set("KEYWARD_TOKEN_FILE", operator.path("first.token").display());
    operator.set("KEYWARD_STORE", cluster.postgres.owner_url());
    operator.set("KEYWARD_KEYRING", cluster.keyring().display());
    operator
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_is_dead_and_its_owner_gets_another() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let mut operator = operator(&cluster);
    let client = cluster.client(1).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    operator.write("leaked.txt", &format!("{key}\n"));
    let steps = blocks(RUNBOOKS, "## A key leaked");
    let [revoke, check, issue] = &steps[..] else {
        panic!("{steps:?}")
    };
    let printed = operator.does(revoke);
    assert!(printed.contains(&id) && printed.contains("42"), "{printed}");
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    let (code, printed) = operator.runs(check);
    assert_eq!(code, 2, "{printed}");
    assert!(printed.contains("REVOKED"), "{printed}");
    operator.set("ACCOUNT", "42");
    let printed = operator.does(issue);
    let new = printed
        .lines()
        .find(|line| line.starts_with("kw_"))
        .unwrap();
    assert_eq!(client.verify(new).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_token_is_dead_and_what_was_done_with_it_is_known() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let mut operator = operator(&cluster);
    let admin = cluster.client(0).await;
    let roles = [Role::Verifier, Role::Issuer];
    let leaked = admin
        .send(creating_token("billing-api", &roles))
        .await
        .unwrap();
    let token_id = leaked.caller_token.unwrap().token_id;
    let thief = Client::new(cluster.grpc(1), Some(&leaked.token)).await;
    let (key_id, key) = thief.issue("stolen", "").await.unwrap();
    let steps = blocks(RUNBOOKS, "## A token leaked");
    let [create, revoke, audit] = &steps[..] else {
        panic!("{steps:?}")
    };
    let printed = operator.does(create);
    assert!(printed.contains(&token_id), "{printed}");
    operator.set("TOKEN_ID", &token_id);
    operator.does(revoke);
    let refused = thief.verify(&key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let new = std::fs::read_to_string(operator.path("new.token")).unwrap();
    let caller = Client::new(cluster.grpc(1), Some(new.trim())).await;
    assert_eq!(caller.verify(&key).await.unwrap(), Verdict::Valid);
    let printed = operator.does(audit);
    assert!(
        printed.contains("issue") && printed.contains(&key_id),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_admin_token_of_a_shared_store_is_replaced() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let operator = operator(&cluster);
    let lost = cluster.client(0).await;
    let (id, key) = lost.issue("42", "").await.unwrap();
    let steps = blocks(RUNBOOKS, "## The last admin token is lost");
    // While a valid one is left, nothing is created.
    let init = "keyward init --token-file early.token";
    let (code, printed) = operator.runs(init);
    assert!(
        code == 1 && printed.contains("already has a keyring and tokens"),
        "{printed}"
    );
    operator.does(&steps[0]);
    eventually("the lost token is dead", PATIENCE, async || {
        lost.list("42")
            .await
            .is_err_and(|refused| refused.code() == Code::Unauthenticated)
    })
    .await;
    let token = std::fs::read_to_string(operator.path("new-admin.token")).unwrap();
    let admin = Client::new(cluster.grpc(1), Some(token.trim())).await;
    admin
        .send(creating_token("next", &[Role::Admin]))
        .await
        .unwrap();
    assert_eq!(admin.verify(&key).await.unwrap(), Verdict::Valid);
    admin.revoke(&id).await.unwrap();
    let (code, printed) = operator.runs(init);
    assert!(
        code == 1 && printed.contains("already has a keyring and tokens"),
        "{printed}"
    );
    assert!(!operator.path("early.token").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_replace_the_last_admin_token_unasked() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let revoke = "UPDATE caller_tokens SET revoke_time = store_time() WHERE NOT revoked";
    cluster.postgres.execute(revoke).await;
    let mut command = cluster.operator();
    command.args(["init", "--if-new", "--token-file", "new.token"]);
    let (status, said) = Process::run_to_end(command);
    assert!(status.success(), "{said}");
    assert!(!cluster.directory().join("new.token").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_admin_token_of_an_embedded_store_is_replaced() {
    let (directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let lost = process.token();
    let (_, key) = process.client().await.issue("42", "").await.unwrap();
    assert!(process.stop().success());
    let mut operator = Operator::new(directory.path());
    operator.set("KEYWARD_DATA_DIR", data_dir.display());
    let steps = blocks(RUNBOOKS, "## The last admin token is lost");
    operator.does(&steps[1]);
    let process = serve(&data_dir);
    assert_ne!(process.token(), lost);
    let client = process.client().await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    client
        .send(creating_token("next", &[Role::Admin]))
        .await
        .unwrap();
    let dead = Client::new(process.grpc, Some(&lost)).await;
    let refused = dead.list("42").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_keyring_comes_back_from_its_copy_while_others_serve() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let mut operator = operator(&cluster);
    operator.set("KEYWARD_HTTP_LISTEN", cluster.instance(0).http);
    let steps = blocks(RUNBOOKS, "## The keyring is lost");
    let client = cluster.client(0).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    cluster.stop(1);
    std::fs::create_dir(operator.path("backup")).unwrap();
    std::fs::rename(cluster.keyring(), operator.path("backup/keyring")).unwrap();
    // The running instance goes on.
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    client.issue("43", "").await.unwrap();
    let (code, printed) = operator.runs("keyward doctor");
    assert!(
        code == 1 && printed.contains("there is no keyring in"),
        "{printed}"
    );
    // The test's server does without fsync, which is another finding.
    let (_, printed) = operator.runs(&steps[0]);
    assert!(printed.contains("generation-1 (active)"), "{printed}");
    assert!(printed.contains("is fresh and serves"), "{printed}");
    let added = cluster.add();
    let other = cluster.client(added).await;
    assert_eq!(other.verify(&key).await.unwrap(), Verdict::Valid);
    client.revoke(&id).await.unwrap();
    assert_eq!(other.verify(&key).await.unwrap(), Verdict::Revoked);
}

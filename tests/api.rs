//! What each RPC promises, through gRPC with a real client.

use keyward_proto::v1::Verdict;
use keyward_testkit::Local;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_and_dies() {
    let local = Local::start().await;
    let client = local.client().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    let revoked = client.revoke(&id).await.unwrap();
    assert_eq!(revoked.confirmed_instances, 1);
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    local.app.stop().await;
}

//! The largest identity that a key can have, about 29 KB of headers.

use std::collections::BTreeMap;

use keyward_proto::v1::IssueRequest;
use keyward_testkit::http_ask;
use keyward_testkit::requests::slot;

use super::world::World;

impl World {
    /// All five headers arrive, or the request does not pass. A head of usual size passes.
    pub(super) async fn largest_identity_arrives_whole(&self) {
        let scopes: Vec<String> = (0..64).map(|number| format!("{number:064}")).collect();
        // 8,192 bytes, of which most become three bytes each.
        let entries = (0..16).map(|number| (format!("{number:02}"), "\u{e9}".repeat(255)));
        let metadata: BTreeMap<String, String> = entries.collect();
        let request = IssueRequest {
            scopes: scopes.clone(),
            metadata: metadata.clone().into_iter().collect(),
            ..slot(&"a".repeat(64))
        };
        let (id, key) = self.issue_key(request).await;
        let filler = "f".repeat(7_000);
        let bodies = [0, 1_000, 16_000, 64 << 10, 256 << 10].map(|size| "b".repeat(size));
        for fillers in 0..=4 {
            let mut headers = vec![("apikey", &*key)];
            headers.extend(vec![("x-filler", &*filler); fillers]);
            for body in &bodies {
                let case = format!("{fillers} fillers, {} bytes", body.len());
                let answered = http_ask(self.proxy.address(), "POST", "/", &headers, body).await;
                let Ok(reply) = answered else {
                    // The proxy has refused the head and does not read the body.
                    assert_ne!(fillers, 0, "{case}: {answered:?}");
                    continue;
                };
                if reply.status != 200 {
                    assert_ne!(fillers, 0, "{case}: {reply:?}");
                    continue;
                }
                let seen = self.seen(&reply);
                let names = ["key-id", "account-id", "name", "scopes"];
                let got = names.map(|name| seen.header(&format!("x-keyward-{name}")));
                let expected = [&*id, &"a".repeat(64), "default", &scopes.join(" ")];
                assert_eq!(got, expected, "{case}");
                let json = seen.header("x-keyward-metadata");
                let got: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
                assert_eq!(got, metadata, "{case}");
                assert_eq!(seen.body, *body, "{case}");
            }
        }
    }
}

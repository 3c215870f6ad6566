//! The seeds of the requests: calls of every RPC, by callers of every kind.

use std::collections::BTreeMap;

use keyward_fuzz::requests::{
    Caller, Named, call, foreign_marker, id_marker, importing, text_marker,
};
use keyward_proto::v1;
use keyward_testkit::Scheme;
use keyward_testkit::requests::{
    bare, by_account, by_id, by_text, changing, creating_token, disabling, getting,
    getting_by_text, listing_all, living, recoverable, replacing, revoking_token, slot, verifying,
    verifying_strongly, with_grace,
};

use super::Seeds;

pub(crate) fn requests() -> Seeds {
    let live = (&*text_marker(Named::Live), &*id_marker(Named::Live));
    let (newest, newest_text) = (&*id_marker(Named::Newest), &*text_marker(Named::Newest));
    let full = v1::IssueRequest {
        name: "full".to_owned(),
        scopes: vec!["read".to_owned(), "trade:*".to_owned()],
        metadata: [("env".to_owned(), "test".to_owned())].into(),
        allowed_cidrs: vec!["10.0.0.0/8".to_owned(), "::1".to_owned()],
        ..recoverable("fuzz")
    };
    let expiring = v1::IssueRequest {
        expire_time: Some(prost_types::Timestamp {
            seconds: 4_000_000_000,
            nanos: 1_000,
        }),
        ..slot("fuzz-2")
    };
    let precise = v1::VerifyRequest {
        required_scopes: vec!["read".to_owned()],
        client_ip: "10.0.0.1".to_owned(),
        ..verifying(newest_text)
    };
    let batch = v1::VerifyBatchRequest {
        requests: vec![verifying(live.0), precise.clone(), verifying("x")],
    };
    let key = v1::ApiKey {
        scopes: vec!["read".to_owned()],
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        expire_time: Some(prost_types::Timestamp {
            seconds: 4_000_000_000,
            nanos: 0,
        }),
        allowed_cidrs: vec!["192.0.2.1".to_owned()],
        ..bare(live.1)
    };
    let paths = [
        "scopes",
        "metadata",
        "expire_time",
        "allowed_cidrs",
        "disabled",
    ];
    let every = Caller::Every;
    let verified = call(every, "Verify", &verifying_strongly(newest_text));
    let then_verified = |first: Vec<u8>| [first, verified.clone()].concat();
    let tokens = v1::ListTokensRequest {
        include_revoked: true,
        page_size: 2,
        ..Default::default()
    };
    let reader = id_marker(Named::Foreign);
    let mut seeds = BTreeMap::from([
        ("issue", then_verified(call(every, "Issue", &full))),
        (
            "issue-again",
            then_verified([call(every, "Issue", &full), call(every, "Issue", &full)].concat()),
        ),
        (
            "issue-ttl",
            then_verified(call(every, "Issue", &living("fuzz-2", 1))),
        ),
        (
            "issue-expiring",
            then_verified(call(every, "Issue", &expiring)),
        ),
        (
            "verify",
            [
                call(every, "Verify", &verifying(live.0)),
                call(every, "Verify", &precise),
            ]
            .concat(),
        ),
        ("verify-batch", call(every, "VerifyBatch", &batch)),
        (
            "get",
            [
                call(every, "Get", &getting(live.1)),
                call(every, "Get", &getting_by_text(live.0)),
            ]
            .concat(),
        ),
        ("list", call(every, "List", &listing_all("fuzz"))),
        ("update", call(every, "Update", &changing(key, paths))),
        (
            "disable",
            [
                call(every, "Update", &disabling(live.1, true)),
                call(every, "Update", &disabling(live.1, false)),
            ]
            .concat(),
        ),
        ("revoke", call(every, "Revoke", &by_id(live.1))),
        ("revoke-text", call(every, "Revoke", &by_text(live.0))),
        ("revoke-account", call(every, "Revoke", &by_account("fuzz"))),
        (
            "revoke-grace",
            call(every, "Revoke", &with_grace(live.1, 3_600)),
        ),
        (
            "replace",
            then_verified(
                [
                    call(every, "Revoke", &replacing(live.1)),
                    call(every, "Revoke", &replacing(live.1)),
                    call(every, "Revoke", &by_id(newest)),
                ]
                .concat(),
            ),
        ),
        (
            "tokens",
            [
                call(
                    every,
                    "CreateToken",
                    &creating_token("x", &[v1::Role::Verifier]),
                ),
                call(every, "ListTokens", &tokens),
            ]
            .concat(),
        ),
        (
            "revoke-token",
            [
                call(every, "RevokeToken", &revoking_token(&reader)),
                call(Caller::Reader, "Get", &getting(live.1)),
            ]
            .concat(),
        ),
    ]);
    seeds.extend(imports());
    for (name, caller) in [
        ("nobody", Caller::Nobody),
        ("reader", Caller::Reader),
        ("former", Caller::Former),
    ] {
        let calls = [
            call(caller, "Issue", &full),
            call(caller, "Revoke", &by_id(live.1)),
            call(caller, "Verify", &verifying(live.0)),
            call(caller, "Get", &getting(live.1)),
            call(caller, "List", &listing_all("fuzz")),
            call(caller, "Update", &disabling(live.1, true)),
            call(caller, "ListTokens", &tokens),
            call(caller, "ImportKeys", &importing(Scheme::Text)),
        ];
        seeds.insert(name, calls.concat());
    }
    seeds
}

/// Imports of a text, and what becomes of it.
fn imports() -> Seeds {
    let every = Caller::Every;
    let text = foreign_marker();
    let import = |scheme| call(every, "ImportKeys", &importing(scheme));
    let verify = call(every, "Verify", &verifying(&text));
    let revoke = call(every, "Revoke", &by_text(&text));
    let undo = v1::UndoImportRequest {
        batch_id: importing(Scheme::Text).batch_id,
        reason: "wrong".to_owned(),
    };
    let both = v1::ImportKeysRequest {
        keys: [Scheme::Sha256, Scheme::Text, Scheme::Hmac(2)]
            .map(|scheme| importing(scheme).keys.remove(0))
            .into(),
        ..importing(Scheme::Text)
    };
    let rehearsal = v1::ImportKeysRequest {
        dry_run: true,
        ..importing(Scheme::Text)
    };
    let export = v1::ExportKeysRequest {
        include_revoked: true,
        ..Default::default()
    };
    let disable = disabling(&id_marker(Named::Newest), true);
    let of = |calls: &[&Vec<u8>]| calls.iter().copied().flatten().copied().collect();
    [
        (
            "import",
            of(&[
                &verify,
                &import(Scheme::Text),
                &verify,
                &revoke,
                &verify,
                &import(Scheme::Text),
            ]),
        ),
        (
            "import-digest",
            of(&[
                &import(Scheme::Hmac(1)),
                &verify,
                &import(Scheme::Text),
                &revoke,
                &verify,
            ]),
        ),
        (
            "import-second",
            of(&[
                &import(Scheme::Sha256),
                &revoke,
                &import(Scheme::Hmac(2)),
                &verify,
            ]),
        ),
        (
            "import-undo",
            of(&[
                &import(Scheme::Text),
                &call(every, "UndoImport", &undo),
                &verify,
            ]),
        ),
        (
            "import-batch",
            of(&[&call(every, "ImportKeys", &both), &verify]),
        ),
        (
            "import-disabled",
            of(&[
                &import(Scheme::Text),
                &call(every, "Update", &disable),
                &verify,
            ]),
        ),
        (
            "import-rehearsal",
            of(&[&call(every, "ImportKeys", &rehearsal), &verify]),
        ),
        (
            "export",
            of(&[
                &import(Scheme::Text),
                &call(every, "ExportKeys", &export),
                &call(
                    every,
                    "GetKeyringStatus",
                    &v1::GetKeyringStatusRequest::default(),
                ),
                &call(
                    every,
                    "ListAuditEvents",
                    &v1::ListAuditEventsRequest::default(),
                ),
                &call(every, "VerifyAudit", &v1::VerifyAuditRequest::default()),
                &call(every, "ListWebhooks", &v1::ListWebhooksRequest::default()),
            ]),
        ),
    ]
    .into()
}

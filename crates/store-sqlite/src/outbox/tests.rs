//! The plans of the statements: each finds its rows in an index, however many events are kept.

use keyward_core::key::Timestamp;
use sqlx::{Connection, Row, SqliteConnection};

use super::*;

/// How a statement reads the tables of webhooks.
async fn reads(db: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
    let plan = explain.fetch_all(db).await.unwrap();
    let steps = plan
        .iter()
        .map(|step| step.get::<String, _>("detail").replace("COVERING ", ""));
    // Common table expressions, the webhooks themselves and tables with one row are scanned.
    let few = [
        "store_clock",
        "json_each",
        "webhooks",
        "looked_at",
        "locked",
        "chosen",
        "free",
        "names",
    ];
    let is_read = |step: &String| {
        let table = step
            .strip_prefix("SCAN ")
            .map(|step| step.split(' ').next().unwrap());
        match table {
            Some(table) => !few.contains(&table),
            None => step.starts_with("SEARCH ") && !step.contains("PRIMARY KEY (name=?)"),
        }
    };
    let steps = steps.filter(is_read);
    steps.map(|step| step.replace("SEARCH ", "")).collect()
}

#[tokio::test]
async fn each_statement_finds_its_events_in_an_index() {
    let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    crate::MIGRATIONS.run(&mut db).await.unwrap();
    let due = "webhook_events USING INDEX webhook_events_due (webhook=? AND due<?)";
    let before = "p USING INDEX webhook_events_key (webhook=? AND key_id=? AND id<?)";
    let by_id = "webhook_events USING INTEGER PRIMARY KEY (rowid=?)";
    let e_by_id = "e USING INTEGER PRIMARY KEY (rowid=?)";
    let released = "webhook_events USING INDEX webhook_events_queued (webhook=? AND key_id=?)";
    let [gone, note, release] = DIALECT.attempts_end();
    let mut cases = vec![
        (DIALECT.is_due(), vec![due]),
        (DIALECT.queue(), vec![e_by_id, due, before, before]),
        // In a claim, `e` are the events that it looks at.
        (DIALECT.claim(), vec![by_id, due, "SCAN e", before]),
        (gone, vec![e_by_id]),
        (note, vec![e_by_id, by_id]),
        (release, vec![released, e_by_id]),
    ];
    for (events, found) in [
        (Replayed::Message([0; 16]), "message (message_id=?)"),
        (Replayed::Dead, "dead (webhook=? AND time>?)"),
        (Replayed::Failing, "failing (webhook=? AND time>?)"),
        (
            Replayed::Since(Timestamp::default()),
            "ended (webhook=? AND time>?)",
        ),
    ] {
        let found = format!("webhook_events USING INDEX webhook_events_{found}");
        let plan = reads(&mut db, &DIALECT.replay(&events)).await;
        assert_eq!(plan, [by_id, &found]);
    }
    let old = "webhook_events USING INDEX webhook_events_oldest (webhook=? AND time<?)";
    cases.push((DIALECT.waits_too_long(), vec![old]));
    for (statement, found) in cases {
        assert_eq!(reads(&mut db, &statement).await, found, "{statement}");
    }
}

//! The list of events: conditions, order, pages.

use std::time::Duration;

use keyward_store::{Actor, AuditAction, AuditEntry, AuditQuery};

use super::record;
use crate::world::{World, account, actor};

pub(crate) async fn events_are_listed_by_condition_and_page(world: World) {
    for n in 0..6 {
        record(&world, n).await;
        world.clock.pass(Duration::from_secs(1));
    }
    let middle = world.now().await;
    let other = Actor {
        name: "other".to_owned(),
        token: None,
        ..actor()
    };
    let subject = world.successor().id;
    for n in 0..6 {
        let entry = AuditEntry {
            action: AuditAction::Issue,
            id: Some(subject).filter(|_| n == 3),
            account: (n < 2).then(|| account("43")),
            detail: Some(format!("number {}", n + 6)),
        };
        world.store.record(entry, &other).await.unwrap();
        world.clock.pass(Duration::from_secs(1));
    }
    let all: Vec<_> = (0..12).collect();
    let with = |set: &dyn Fn(&mut AuditQuery)| {
        let mut query = AuditQuery::default();
        set(&mut query);
        query
    };
    let text = |text: &str| Some(text.to_owned());
    let cases: [(AuditQuery, &[usize]); 9] = [
        (AuditQuery::default(), &all),
        (with(&|q| q.account = text("42")), &all[..6]),
        (with(&|q| q.account = text("43")), &[6, 7]),
        (with(&|q| q.subject = Some(subject)), &[9]),
        (with(&|q| q.actor = text("other")), &all[6..]),
        (with(&|q| q.action = text("reveal")), &all[..6]),
        (with(&|q| q.action = text("deny")), &[]),
        (
            with(&|q| (q.from, q.account) = (Some(middle), text("43"))),
            &[6, 7],
        ),
        (
            with(&|q| (q.until, q.actor) = (Some(middle), text("bot"))),
            &all[..6],
        ),
    ];
    for (query, expected) in cases {
        for newest_first in [false, true] {
            let mut expected = expected.to_vec();
            if newest_first {
                expected.reverse();
            }
            for limit in [1, 4, 100] {
                let mut query = AuditQuery {
                    newest_first,
                    limit,
                    ..query.clone()
                };
                let mut found = Vec::new();
                loop {
                    let page = world.store.list_events(&query).await.unwrap();
                    assert!(page.events.len() <= limit as usize);
                    for event in &page.events {
                        let detail = event.detail.as_deref().unwrap();
                        let number = detail.strip_prefix("number ").unwrap();
                        found.push(number.parse::<usize>().unwrap());
                    }
                    match page.next {
                        Some(next) => query.after = Some(next),
                        None => break,
                    }
                }
                assert_eq!(found, expected, "{query:?}");
            }
        }
    }
}

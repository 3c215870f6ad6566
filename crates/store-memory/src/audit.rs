//! The audit.

use async_trait::async_trait;

use super::MemoryStore;
use super::server::{Transaction, Transport};
use keyward_store::audit::{AuditCursor, Link};
use keyward_store::raw;
use keyward_store::{
    Actor, Audit, AuditAction, AuditEntry, AuditEvent, AuditPage, AuditPart, AuditQuery, AuditSeal,
    Result, Sealing, Trimming,
};

#[async_trait]
impl<T: Transport> Audit for MemoryStore<T> {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| {
            tx.audit(entry, &actor);
            Ok(())
        };
        self.write("record", work).await
    }

    async fn list_events(&self, query: &AuditQuery) -> Result<AuditPage> {
        let query = query.clone();
        let read = move |tx: &mut Transaction<'_>| {
            let events = tx.database.audit.iter();
            let mut found: Vec<_> = events.filter(|event| matches(&query, event)).collect();
            found.sort_by_key(|event| AuditCursor::of(event));
            if query.newest_first {
                found.reverse();
            }
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
            let found = found.into_iter().take(limit);
            Ok(query.page(found.map(|event| (event.clone(), true))))
        };
        self.read("list_events", read).await
    }

    async fn seal_events(&self, sealing: &Sealing) -> Result<Option<(AuditSeal, usize)>> {
        let sealing = sealing.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.seal_events(&sealing));
        self.write("seal_events", work).await
    }

    async fn audit_part(&self, known: i64, limit: usize) -> Result<AuditPart> {
        let limit = raw::limit(limit);
        let read = move |tx: &mut Transaction<'_>| Ok(tx.audit_part(known, limit));
        self.read("audit_part", read).await
    }

    async fn trim_events(&self, trimming: &Trimming) -> Result<u64> {
        let trimming = trimming.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.trim_events(&trimming));
        self.write("trim_events", work).await
    }
}

fn matches(query: &AuditQuery, event: &AuditEvent) -> bool {
    let cursor = AuditCursor::of(event);
    let is_text =
        |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
    let subject = query.subject.as_ref().map(|id| id.as_bytes().to_vec());
    (query.account.is_none() || query.account == event.account)
        && (subject.is_none() || subject == event.subject)
        && is_text(&query.actor, &event.actor)
        && is_text(&query.action, &event.action)
        && query.from.is_none_or(|from| event.time >= from)
        && query.until.is_none_or(|until| event.time < until)
        && query.after.is_none_or(|after| match query.newest_first {
            true => cursor < after,
            false => cursor > after,
        })
}

impl Transaction<'_> {
    /// Writes an event.
    pub(crate) fn audit(&mut self, entry: AuditEntry, actor: &Actor) {
        let event = AuditEvent {
            id: self.database.audit.last().map_or(1, |last| last.id + 1),
            time: self.now,
            actor_id: actor.token.map(|id| id.as_bytes().to_vec()),
            actor: actor.name.clone(),
            action: entry.action.name().to_owned(),
            subject: entry.id.map(|id| id.as_bytes().to_vec()),
            detail: entry.detail,
            account: entry.account.map(|account| account.to_string()),
            origin: actor.origin.clone(),
            link: None,
        };
        self.database.audit.push(event);
    }

    fn seal_events(&mut self, sealing: &Sealing) -> Option<(AuditSeal, usize)> {
        let database = &mut *self.database;
        let unsealed = database.audit.iter().filter(|event| event.link.is_none());
        let mut events: Vec<_> = unsealed.take(Sealing::LIMIT).cloned().collect();
        let last = database.seals.last();
        if !sealing.is_due(last, self.now, events.len()) {
            return None;
        }
        let seal = sealing.seal(last, &mut events, self.now);
        let links: Vec<(i64, Option<Link>)> = events
            .into_iter()
            .map(|event| (event.id, event.link))
            .collect();
        let count = links.len();
        for (id, link) in links {
            if let Some(event) = database.audit.iter_mut().find(|event| event.id == id) {
                event.link = link;
            }
        }
        database.seals.push(seal.clone());
        Some((seal, count))
    }

    fn audit_part(&self, known: i64, limit: i64) -> AuditPart {
        let database = &self.database;
        let seals = database.seals.iter().filter(|seal| seal.number >= known);
        let seals = seals.take(AuditPart::SEALS + 1).cloned().collect();
        let mut part = AuditPart::new(seals, known, limit, database.trimmed.clone());
        let (from, to, most) = part.places(known, limit);
        let mut chained: Vec<_> = database
            .audit
            .iter()
            .filter(|event| {
                let link = event.link.as_ref();
                link.is_some_and(|link| link.position > from && link.position <= to)
            })
            .cloned()
            .collect();
        chained.sort_by_key(|event| event.link.as_ref().map(|link| link.position));
        chained.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        part.events = chained;
        if part.is_last {
            let unsealed = database.audit.iter().filter(|event| event.link.is_none());
            part.unsealed = unsealed.take(AuditPart::UNSEALED).cloned().collect();
        }
        part
    }

    fn trim_events(&mut self, trimming: &Trimming) -> u64 {
        let seals = &self.database.seals;
        let Some(oldest) = seals.first() else {
            return 0;
        };
        let is_old = |seal: &&AuditSeal| self.now.since(seal.time) >= trimming.kept;
        let steps = seals.iter().take_while(is_old).skip(1);
        let first = steps
            .take_while(|seal| seal.last_position <= oldest.last_position + Trimming::STEP)
            .last()
            .cloned();
        let Some((first, proof)) = trimming.proven(first) else {
            return 0;
        };
        let before = self.database.audit.len();
        self.database.audit.retain(|event| {
            let link = event.link.as_ref();
            link.is_none_or(|link| link.position > first.last_position)
        });
        let trimmed = (before - self.database.audit.len()) as u64;
        self.database
            .seals
            .retain(|seal| seal.number >= first.number);
        self.database.trimmed.first_seal = first.number;
        self.database.trimmed.proof = proof;
        let entry = AuditAction::AuditTrim.entry(Trimming::detail(trimmed, first.number));
        self.audit(entry, &Actor::service());
        trimmed
    }
}

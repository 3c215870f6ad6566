//! What really happened, as the servers committed it and the callers saw it, and which promises
//! follow from it. The checker of the testkit compares the promises with the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::fence::CommittedChange;
use keyward_core::key::{KeyId, Timestamp, Verdict};
use keyward_store_memory::Database;
use keyward_testkit::{Event, check_events};

use crate::imports::Texts;

/// A committed end of a key or of a token.
#[derive(Clone, Copy, Debug)]
struct Death {
    change: CommittedChange,
    /// From when on, by the store's time. Before that, the key is in its grace, or not expired.
    end: Timestamp,
    /// When the store committed it; without a fact, when the time that the store never falls below
    /// reached the end.
    since: Option<u64>,
    /// It is a revocation, so time takes no part.
    is_fact: bool,
}

/// What is known of a key or of a token.
#[derive(Debug, Default)]
struct Life {
    name: String,
    account: Option<String>,
    deaths: Vec<Death>,
    /// The time from which it is promised dead everywhere, because a call said so.
    promised: Option<u64>,
    /// The store lost it.
    is_lost: bool,
}

/// A change whose call returned OK.
struct Acknowledged {
    change: CommittedChange,
    what: String,
}

/// Collects the history of a run.
#[derive(Default)]
pub(crate) struct Judge {
    /// How long after a commit each instance may still answer without it.
    bounds: Vec<u64>,
    lives: BTreeMap<KeyId, Life>,
    texts: Texts,
    /// Accounts that some call revokes.
    dying_accounts: Vec<String>,
    head: u64,
    /// Lost ends that an instance had applied, so that it must refuse, and up to which revision it had
    /// applied the log.
    held: Vec<(usize, u64, KeyId)>,
    acknowledged: Vec<Acknowledged>,
    events: Vec<Event>,
    /// Violations that are not about a verdict.
    pub(crate) faults: Vec<String>,
    pub(crate) lost: u64,
    /// When the store was replaced last.
    failed_over: u64,
}

impl Judge {
    pub(crate) fn new(bounds: &[Duration]) -> Self {
        Self {
            bounds: bounds.iter().map(|bound| micros(*bound)).collect(),
            ..Self::default()
        }
    }

    /// The name of a key or token. The first mention makes it known.
    pub(crate) fn know(&mut self, at: u64, id: KeyId, account: Option<&str>) -> String {
        let id = self.texts.first(id);
        let count = self.lives.len();
        if let Some(life) = self.lives.get(&id) {
            return life.name.clone();
        }
        let name = format!("{}{count}", if account.is_some() { "key" } else { "token" });
        let life = Life {
            name: name.clone(),
            account: account.map(str::to_owned),
            ..Life::default()
        };
        let is_dying = account.is_some_and(|name| self.dying_accounts.iter().any(|a| a == name));
        self.lives.insert(id, life);
        let key = name.clone();
        self.events.push(Event::Issued { key, at });
        if is_dying {
            self.dying(at, id);
        }
        name
    }

    /// A call that may end it is about to be sent.
    pub(crate) fn dying(&mut self, at: u64, id: KeyId) {
        let key = self.know(at, id, None);
        self.events.push(Event::Dying { key, at });
    }

    /// A call that may end all keys of an account is about to be sent.
    pub(crate) fn account_dying(&mut self, at: u64, account: &str) {
        let mine = self.lives.iter();
        let mine = mine.filter(|(_, life)| life.account.as_deref() == Some(account));
        let ids: Vec<KeyId> = mine.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.dying(at, id));
        self.dying_accounts.push(account.to_owned());
    }

    /// A key that ends by itself was created, by `change` if others can have its text after a failover has
    /// lost it.
    pub(crate) fn expires(&mut self, at: u64, id: KeyId, end: Timestamp, change: CommittedChange) {
        self.dying(at, id);
        if let Some(life) = self.lives.get_mut(&self.texts.first(id)) {
            life.deaths.push(Death {
                change,
                end,
                since: None,
                is_fact: false,
            });
        }
    }

    /// Takes the changes that the primary has committed since the last call.
    pub(crate) fn observe(&mut self, at: u64, database: &Database) {
        for (revision, row) in database.rows_after(self.head) {
            self.head = revision;
            let Some(id) = row.id else { continue };
            let change = CommittedChange {
                revision,
                mark: Some(row.mark),
                id: Some(id),
                read_in: None,
            };
            if id == KeyId::IMPORTS {
                self.imported(at, change, database);
                continue;
            }
            let (account, end, is_fact) = match (database.key(id), database.token(id)) {
                (Some(key), _) if key.disabled => {
                    let account = key.account.as_str();
                    // Dead at any time.
                    (Some(account), Some(Timestamp::default()), true)
                }
                (Some(key), _) => (Some(key.account.as_str()), key.revoke_time, key.revoked),
                (None, Some(token)) => (None, token.revoke_time, token.revoked),
                (None, None) => continue,
            };
            self.know(at, id, account);
            let Some(end) = end else { continue };
            let id = self.texts.first(id);
            let mut lives = self.lives.get(&id).into_iter();
            let is_known = |known: &Death| known.end == end && (known.is_fact || !is_fact);
            if lives.any(|life| life.deaths.iter().any(is_known)) {
                continue;
            }
            self.dying(at, id);
            if let Some(life) = self.lives.get_mut(&id) {
                life.deaths.push(Death {
                    change,
                    end,
                    since: None,
                    is_fact,
                });
            }
        }
        self.pass(at, database.time_floor);
        // Without the row that it would compare, an instance starts as a new one does.
        let pruned_to = database.pruned_to();
        self.release(at, |_, applied| applied < pruned_to);
    }

    /// An import was committed.
    fn imported(&mut self, at: u64, change: CommittedChange, database: &Database) {
        for (key, is_wrong) in self.texts.add(database) {
            let name = self.know(at, key.id, Some(key.account.as_str()));
            if is_wrong {
                let twice = format!("an import of the text brought {name} although it was known");
                self.faults.push(twice);
            }
            if let Some(end) = key.expire_time {
                self.expires(at, key.id, end, change);
            }
        }
    }

    /// Finds the ends that came. P1 counts from then. `floor` is the time that the store never falls below.
    fn pass(&mut self, at: u64, floor: Timestamp) {
        let bounds = &self.bounds;
        for life in self.lives.values_mut() {
            for death in &mut life.deaths {
                if death.since.is_none() && (death.is_fact || death.end <= floor) {
                    death.since = Some(at);
                    let dead = |(instance, bound)| dead(&life.name, at + bound, instance);
                    self.events.extend(bounds.iter().enumerate().map(dead));
                }
            }
        }
    }

    /// A call returned OK: this key is dead everywhere from now on, if it is not in a grace. P2.
    /// `revision` is the change that the call returned: it promises nothing about later ones.
    pub(crate) fn promised(&mut self, at: u64, id: KeyId, revision: u64) {
        let Some(life) = self.lives.get_mut(&self.texts.first(id)) else {
            return;
        };
        let is_covered = |death: &Death| death.is_fact && death.change.revision <= revision;
        if life.deaths.iter().any(is_covered) && life.promised.is_none() {
            life.promised = Some(at);
            let dead = |instance| dead(&life.name, at, instance);
            self.events.extend((0..self.bounds.len()).map(dead));
        }
    }

    /// Whether a revocation ended it.
    pub(crate) fn is_revoked(&self, id: KeyId) -> bool {
        let life = self.lives.get(&self.texts.first(id));
        life.is_some_and(|life| life.deaths.iter().any(|death| death.is_fact))
    }

    /// The keys of an account that were dead at `before`.
    pub(crate) fn dead_of(&self, account: &str, before: u64) -> Vec<KeyId> {
        let of_account = |life: &Life| life.account.as_deref() == Some(account);
        let was_dead = |life: &Life| {
            let mut deaths = life.deaths.iter();
            deaths.any(|death| death.is_fact && death.since.is_some_and(|since| since <= before))
        };
        let lives = self.lives.iter();
        let dead = lives.filter(|(_, life)| of_account(life) && was_dead(life));
        dead.map(|(id, _)| *id).collect()
    }

    /// A call returned OK about this change, which was confirmed at `confirmed`. The change must stand in
    /// the store, now and later, unless a failover after the confirmation lost it. Returns whether
    /// the change stands.
    pub(crate) fn acknowledge(
        &mut self,
        change: CommittedChange,
        what: String,
        confirmed: u64,
        database: &Database,
    ) -> bool {
        // A trimmed change cannot be looked up.
        if change.revision < database.pruned_to().max(1) {
            return true;
        }
        if !database.stands(change) && confirmed <= self.failed_over {
            self.lost += 1;
            return false;
        }
        if !database.stands(change) {
            let lost = format!(
                "{what}: OK, but the store had lost revision {}",
                change.revision
            );
            self.faults.push(lost);
            return false;
        }
        self.acknowledged.push(Acknowledged { change, what });
        true
    }

    /// The store was replaced by a copy. `applied` is what each instance had applied, if it runs.
    pub(crate) fn failed_over(&mut self, at: u64, applied: &[Option<u64>], database: &Database) {
        self.head = database.head();
        self.failed_over = at;
        let stands = |change: CommittedChange| {
            change.revision < database.pruned_to() || database.stands(change)
        };
        let before = self.acknowledged.len();
        self.acknowledged
            .retain(|acknowledged| stands(acknowledged.change));
        self.lost += u64::try_from(before - self.acknowledged.len()).unwrap_or(0);
        for (id, life) in &mut self.lives {
            let is_missing = database.key(*id).is_none() && database.token(*id).is_none();
            if is_missing && !life.is_lost {
                life.is_lost = true;
                let key = life.name.clone();
                self.events.push(Event::Dying { key, at });
            }
            let in_log = |death: &Death| {
                let CommittedChange { revision, mark, .. } = death.change;
                revision < database.pruned_to()
                    || mark.is_none()
                    || database.mark_at(revision) == mark
            };
            let (kept, lost): (Vec<Death>, Vec<Death>) =
                life.deaths.iter().copied().partition(in_log);
            life.deaths = kept;
            // A promise rested on an end that the log may have lost.
            let still = |promised: &u64| {
                let mut deaths = life.deaths.iter();
                deaths.any(|death| {
                    death.is_fact && death.since.is_some_and(|since| since <= *promised)
                })
            };
            life.promised = life.promised.filter(still);
            // The new primary may not know how late it was.
            let mut revived = false;
            for death in &mut life.deaths {
                if !death.is_fact && death.end > database.time_floor {
                    revived |= death.since.take().is_some();
                }
            }
            for instance in (0..applied.len()).filter(|_| revived) {
                revive(&mut self.events, life, at, instance, &self.bounds);
            }
            let Some(first) = lost.iter().map(|death| death.change.revision).min() else {
                continue;
            };
            // An instance that has applied the lost end refuses until an operator decides (H2).
            for (instance, applied) in applied.iter().enumerate() {
                match applied {
                    Some(applied) if *applied >= first => {
                        self.held.push((instance, *applied, *id));
                    }
                    _ => revive(&mut self.events, life, at, instance, &self.bounds),
                }
            }
        }
    }

    /// The instance started again, or an operator accepted the log: lost ends no longer bind it.
    pub(crate) fn accepted(&mut self, at: u64, instance: usize) {
        self.release(at, |holder, _| holder == instance);
    }

    fn release(&mut self, at: u64, is_free: impl Fn(usize, u64) -> bool) {
        let free = |(instance, applied, _): &mut (usize, u64, KeyId)| is_free(*instance, *applied);
        for (instance, _, id) in self.held.extract_if(.., free) {
            if let Some(life) = self.lives.get(&id) {
                revive(&mut self.events, life, at, instance, &self.bounds);
            }
        }
    }

    /// An answer of an instance; `None` for UNAVAILABLE.
    pub(crate) fn verified(
        &mut self,
        id: KeyId,
        instance: usize,
        (began, ended): (u64, u64),
        verdict: Option<Verdict>,
    ) {
        let key = self.know(began, id, None);
        let verdict = verdict.map(|verdict| verdict.name().to_owned());
        self.events.push(Event::Verify {
            key,
            instance,
            began,
            ended,
            verdict,
        });
    }

    /// Checks that everything acknowledged stands, and that each slot holds at most one live key.
    pub(crate) fn inspect(&mut self, database: &Database) {
        for Acknowledged { change, what } in &self.acknowledged {
            let revision = change.revision;
            let is_trimmed = revision < database.pruned_to();
            if !is_trimmed && database.mark_at(revision) != change.mark {
                let lost = format!("{what}: acknowledged revision {revision} is missing");
                self.faults.push(lost);
            }
        }
        let mut slots: Vec<_> = database
            .keys()
            .filter(|key| key.record.revoke_time.is_none())
            .map(|key| (key.record.account, key.record.name))
            .map(|(account, name)| (account.as_str().to_owned(), name.to_string()))
            .collect();
        slots.sort_unstable();
        for pair in slots.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.faults
                .push(format!("the slot {:?} holds two live keys", pair[0]));
        }
    }

    /// The violations, and a hash of the whole history.
    pub(crate) fn finish(&self) -> (Vec<String>, u64) {
        let mut violations = self.faults.clone();
        match check_events(&self.events) {
            Ok(report) => violations.extend(report.violations.iter().map(ToString::to_string)),
            Err(unreadable) => violations.push(unreadable.to_string()),
        }
        let text = format!("{:?}", self.events);
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        (violations, text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
    }
}

/// Voids what was promised about an instance, and states again what the store still holds.
fn revive(events: &mut Vec<Event>, life: &Life, at: u64, instance: usize, bounds: &[u64]) {
    let key = life.name.clone();
    let only = Some(instance);
    events.push(Event::Revived {
        key,
        at,
        instance: only,
    });
    let known = life.deaths.iter().filter_map(|death| death.since);
    events.extend(known.map(|since| dead(&life.name, since + bounds[instance], instance)));
    if !life.deaths.is_empty() {
        events.extend(life.promised.map(|at| dead(&life.name, at, instance)));
    }
}

fn dead(name: &str, at: u64, instance: usize) -> Event {
    Event::Dead {
        key: name.to_owned(),
        at,
        instance: Some(instance),
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

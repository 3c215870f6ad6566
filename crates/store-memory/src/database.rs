//! The tables of the database, and the log that every change of a record appends to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::outbox::OutboxTables;
use super::server::Transaction;
use keyward_core::fence::{
    CommittedChange, Epoch, MAX_ROWS, Mark, Position, RegistrationId, Stamp,
};
use keyward_core::key::{
    AccountId, BatchId, Entropy, KeyId, KeyRecord, KeyUse, Timestamp, TokenRecord,
};
use keyward_crypto::{Digest, Sealed};
use keyward_store::audit::TrimState;
use keyward_store::keyring::InstanceKeys;
use keyward_store::{AuditEvent, AuditSeal, KnownKey, Result, StoreError, StoredKey, Updated};

/// The contents of a database. A clone is a copy for a standby or a backup.
#[derive(Clone, Debug)]
pub struct Database {
    /// The history that the revisions belong to.
    pub epoch: Epoch,
    /// The epoch that the store names as settled.
    pub settled: Option<Epoch>,
    /// Whether commits wait for a standby.
    pub has_standby: bool,
    /// The lowest time that the store may show.
    pub time_floor: Timestamp,
    /// The most rows in a page of the log: at most `MAX_ROWS` of the fence.
    pub page_rows: usize,
    /// The log from `first_revision` to the head.
    pub(crate) log: VecDeque<LogRow>,
    first_revision: u64,
    /// The events of the audit, in the order of their writing.
    pub audit: Vec<AuditEvent>,
    /// The seals of the audit.
    pub seals: Vec<AuditSeal>,
    /// What was trimmed of the audit.
    pub trimmed: TrimState,
    pub(crate) keys: BTreeMap<KeyId, KeyRow>,
    pub(crate) tokens: BTreeMap<KeyId, TokenRow>,
    pub(crate) instances: BTreeMap<RegistrationId, InstanceRow>,
    pub(crate) checks: Vec<KnownKey>,
    /// The accounts whose erasure has begun, with their pseudonyms.
    pub(crate) erasures: BTreeMap<AccountId, AccountId>,
    pub(crate) prefixes: BTreeSet<String>,
    pub(crate) uses: BTreeMap<KeyId, KeyUse>,
    pub(crate) outbox: OutboxTables,
}

/// One row of the log.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Tells this log from another one with the same revisions.
    pub mark: Mark,
    /// The key or token that changed; `None` in the first row.
    pub id: Option<KeyId>,
    /// The store's time of the change.
    pub time: Timestamp,
}

/// A row of a key.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    pub(crate) record: KeyRecord,
    pub(crate) digest: Digest,
    /// `None` for an imported key.
    pub(crate) generation: Option<u32>,
    pub(crate) sealed: Option<Sealed>,
    /// The import that brought the key.
    pub(crate) batch: Option<BatchId>,
    pub(crate) mark: Option<Mark>,
}

/// A row of a caller's token.
#[derive(Clone, Debug)]
pub(crate) struct TokenRow {
    pub(crate) record: TokenRecord,
    pub(crate) digest: Digest,
    pub(crate) generation: Option<u32>,
    pub(crate) mark: Option<Mark>,
}

/// A row of an instance.
#[derive(Clone, Debug)]
pub(crate) struct InstanceRow {
    pub(crate) beat: u64,
    pub(crate) acked: Position,
    pub(crate) max_staleness: Duration,
    pub(crate) confirms: u64,
    pub(crate) keys: InstanceKeys,
}

impl KeyRow {
    pub(crate) fn stored(&self) -> StoredKey {
        StoredKey {
            record: self.record.clone(),
            sealed: self.sealed.clone(),
        }
    }

    pub(crate) fn last_change(&self) -> CommittedChange {
        last_change(self.record.id, self.record.revision, self.mark)
    }

    /// The answer about the key; `read_in` is the epoch of a call that changed nothing.
    pub(crate) fn updated(&self, read_in: Option<Epoch>) -> Updated {
        Updated {
            record: self.record.clone(),
            digest: self.digest,
            committed: self.last_change().read_in(read_in),
        }
    }
}

impl TokenRow {
    pub(crate) fn last_change(&self) -> CommittedChange {
        last_change(self.record.id, self.record.revision, self.mark)
    }
}

fn last_change(id: KeyId, revision: u64, mark: Option<Mark>) -> CommittedChange {
    match mark {
        None => CommittedChange::NOTHING,
        Some(_) => CommittedChange {
            revision,
            mark,
            id: Some(id),
            read_in: None,
        },
    }
}

impl Database {
    /// An empty database: its log has the row of revision 0.
    pub fn new(epoch: Epoch, mark: Mark, now: Timestamp) -> Self {
        let origin = LogRow {
            mark,
            id: None,
            time: now,
        };
        Self {
            epoch,
            settled: None,
            has_standby: false,
            time_floor: now,
            page_rows: MAX_ROWS,
            log: VecDeque::from([origin]),
            first_revision: 0,
            audit: Vec::new(),
            seals: Vec::new(),
            trimmed: TrimState::default(),
            keys: BTreeMap::new(),
            tokens: BTreeMap::new(),
            instances: BTreeMap::new(),
            checks: Vec::new(),
            erasures: BTreeMap::new(),
            prefixes: BTreeSet::new(),
            uses: BTreeMap::new(),
            outbox: OutboxTables::default(),
        }
    }

    /// The last revision of the log.
    pub fn head(&self) -> u64 {
        // The last row always stays.
        self.revision_at(self.log.len().saturating_sub(1))
    }

    /// The first revision of the log. The rows before it were trimmed.
    pub fn pruned_to(&self) -> u64 {
        self.first_revision
    }

    fn revision_at(&self, index: usize) -> u64 {
        self.first_revision + u64::try_from(index).unwrap_or(u64::MAX)
    }

    /// The index in the log of the first row at `revision` or after it.
    fn index_of(&self, revision: u64) -> usize {
        let index = revision.saturating_sub(self.first_revision);
        usize::try_from(index).map_or(self.log.len(), |index| index.min(self.log.len()))
    }

    /// The rows of the log after `revision`, in order.
    pub fn rows_after(&self, revision: u64) -> impl Iterator<Item = (u64, &LogRow)> {
        let start = self.index_of(revision.saturating_add(1));
        let rows = self.log.range(start..).enumerate();
        rows.map(move |(n, row)| (self.revision_at(start + n), row))
    }

    /// The mark of the row at `revision`.
    pub fn mark_at(&self, revision: u64) -> Option<Mark> {
        let index = usize::try_from(revision.checked_sub(self.first_revision)?).ok()?;
        self.log.get(index).map(|row| row.mark)
    }

    /// The last change of any key or token.
    pub(crate) fn last_change(&self) -> CommittedChange {
        let last = self.log.back().and_then(|row| Some((row.id?, row.mark)));
        last.map_or(CommittedChange::NOTHING, |(id, mark)| {
            last_change(id, self.head(), Some(mark))
        })
    }

    /// The record of a key.
    pub fn key(&self, id: KeyId) -> Option<&KeyRecord> {
        self.keys.get(&id).map(|row| &row.record)
    }

    /// The record of a token.
    pub fn token(&self, id: KeyId) -> Option<&TokenRecord> {
        self.tokens.get(&id).map(|row| &row.record)
    }

    /// Whether the log, or the row of its key or token, has this change. Nothing always stands.
    pub fn stands(&self, change: CommittedChange) -> bool {
        let on_row = change.id.and_then(|id| {
            let key = self.keys.get(&id).map(KeyRow::last_change);
            key.or_else(|| self.tokens.get(&id).map(TokenRow::last_change))
        });
        change.revision == 0
            || self.mark_at(change.revision) == change.mark
            || on_row == Some(change.read_in(None))
    }

    /// Logs `count` changes of a key that leave its record as it is, as a long import would.
    pub fn touch(&mut self, id: KeyId, count: u64, entropy: &dyn Entropy) {
        let Some(time) = self.log.back().map(|last| last.time) else {
            return;
        };
        for _ in 0..count {
            let mut mark = [0; 8];
            entropy.fill(&mut mark);
            let id = Some(id);
            self.log.push_back(LogRow { mark, id, time });
        }
    }

    /// Deletes all log rows before `revision`, but never the last one.
    pub fn trim_to(&mut self, revision: u64) {
        let count = self.index_of(revision.min(self.head()));
        self.log.drain(..count);
        self.first_revision = self.revision_at(count);
    }

    /// Deletes the rows of all instances, as only an operator can.
    pub fn forget_instances(&mut self) {
        self.instances.clear();
    }

    /// All keys, in the order of their ids, with their sealed copies.
    pub fn keys(&self) -> impl Iterator<Item = StoredKey> {
        self.keys.values().map(KeyRow::stored)
    }

    /// The keys that imports brought.
    pub fn imported(&self) -> impl Iterator<Item = &KeyRecord> {
        let imported = self.keys.values().filter(|row| row.batch.is_some());
        imported.map(|row| &row.record)
    }

    /// The head of the log, as the stamp of a read.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            epoch: self.epoch,
            revision: self.head(),
        }
    }

    pub(crate) fn key_of(&self, digest: &Digest) -> Option<&KeyRow> {
        self.keys.values().find(|row| row.digest == *digest)
    }

    pub(crate) fn token_of(&self, digest: &Digest) -> Option<&TokenRow> {
        let mut rows = self.tokens.values();
        rows.find(|row| row.digest == *digest && !(row.record.revoked && row.record.san.is_some()))
    }
}

impl Transaction<'_> {
    /// Appends a row about `id` to the log. I3: the head is the last revision, and no other
    /// transaction runs.
    pub(crate) fn append(&mut self, id: KeyId) -> (u64, Mark) {
        let mut mark = [0; 8];
        self.entropy.fill(&mut mark);
        let row = LogRow {
            mark,
            id: Some(id),
            time: self.now,
        };
        self.database.log.push_back(row);
        (self.database.head(), mark)
    }

    /// Writes the record of a key and logs the change. A revoked key loses its sealed copy.
    pub(crate) fn change_key(&mut self, mut record: KeyRecord) {
        let (revision, mark) = self.append(record.id);
        record.revision = revision;
        self.tell_end(&record);
        if let Some(row) = self.database.keys.get_mut(&record.id) {
            if record.revoke_time.is_some() {
                row.sealed = None;
            }
            row.record = record;
            row.mark = Some(mark);
        }
    }

    /// Writes the record of a token and logs the change.
    pub(crate) fn change_token(&mut self, mut record: TokenRecord) {
        let (revision, mark) = self.append(record.id);
        record.revision = revision;
        if let Some(row) = self.database.tokens.get_mut(&record.id) {
            row.record = record;
            row.mark = Some(mark);
        }
    }
}

/// The error for a statement that a constraint of the schema refuses.
pub(crate) fn refused<R>(what: &str) -> Result<R> {
    Err(StoreError::Damaged(what.to_owned()))
}

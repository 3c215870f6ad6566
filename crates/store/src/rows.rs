//! Rows as records. The tables have the same columns on each database, so a backend only says how it reads a
//! column. The checks of single fields are in [`raw`].

use serde::de::DeserializeOwned;

use super::audit::{Link, TrimState};
use super::raw::{self, RawKey};
use super::{
    AuditEvent, AuditSeal, ClaimedEvent, CommittedChange, EventKind, EventPlace, ExpiringKey,
    KeyringUse, KnownKey, KnownState, Origin, Result, StoreError, StoredKey, Updated, Webhook,
    WebhookStatus,
};
use keyward_core::fence::Change;
use keyward_core::key::{
    FieldError, KeyId, KeyRecord, KeyUse, Roles, San, SlotName, Timestamp, TokenRecord,
};
use keyward_crypto::{CheckValue, Digest, KeyKind, Sealed};

/// Reads a column of a row as `T`.
pub trait Column<T> {
    /// The value of the column `name`.
    fn column(&self, name: &str) -> Result<T>;
}

/// A row that a backend has read.
pub trait Row:
    Column<bool>
    + Column<i64>
    + Column<Option<i64>>
    + Column<String>
    + Column<Option<String>>
    + Column<Vec<u8>>
    + Column<Option<Vec<u8>>>
{
    /// The bytes of an id.
    fn id_bytes(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// A time.
    fn optional_time(&self, name: &str) -> Result<Option<Timestamp>>;

    /// A value that is stored as JSON.
    fn json<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<T>;

    /// An array of texts.
    fn texts(&self, name: &str) -> Result<Vec<String>>;

    /// A time that is never missing.
    fn time(&self, name: &str) -> Result<Timestamp> {
        self.optional_time(name)?.ok_or_else(|| missing(name))
    }

    /// The id of a key or of a token.
    fn id(&self, name: &str) -> Result<KeyId> {
        let bytes = self.id_bytes(name)?.ok_or_else(|| missing(name))?;
        Ok(raw::id(&bytes)?)
    }

    /// A revision, or another number that is never negative.
    fn revision(&self, name: &str) -> Result<u64> {
        Ok(raw::revision(self.column(name)?)?)
    }

    /// The last change of what the row is about, whose id is in the column `id`.
    fn last_change(&self, id: &str) -> Result<CommittedChange> {
        let revision = match self.id_bytes(id)? {
            Some(_) => self.revision("revision")?,
            None => 0,
        };
        if revision == 0 {
            return Ok(CommittedChange::NOTHING);
        }
        let mark: Vec<u8> = self.column("mark")?;
        Ok(CommittedChange {
            revision,
            mark: Some(raw::mark(&mark)?),
            id: Some(self.id(id)?),
            read_in: None,
        })
    }
}

fn missing(name: &str) -> StoreError {
    StoreError::Damaged(format!("the column {name} is empty"))
}

/// What a backend reads from a row with columns of the same names.
pub trait FromRow: Sized {
    /// Reads and checks it.
    fn from_row<R: Row>(row: &R) -> Result<Self>;
}

impl FromRow for KeyRecord {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let raw = RawKey {
            id: row.id("key_id")?,
            account: row.column("account_id")?,
            name: row.column("name")?,
            hint: row.column("hint")?,
            scopes: row.json("scopes")?,
            metadata: row.json("metadata")?,
            networks: row.json("allowed_cidrs")?,
            recoverable: row.column("recoverable")?,
            disabled: row.column("disabled")?,
            create_time: row.time("create_time")?,
            expire_time: row.optional_time("expire_time")?,
            revoke_time: row.optional_time("revoke_time")?,
            revoked: row.column("revoked")?,
            revoke_reason: row.column("revoke_reason")?,
            replaced_by: row.id_bytes("replaced_by")?,
            revision: row.column("revision")?,
        };
        Ok(raw.check()?)
    }
}

impl FromRow for StoredKey {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let sealed: Option<Vec<u8>> = row.column("sealed")?;
        Ok(Self {
            record: KeyRecord::from_row(row)?,
            sealed: sealed.map(Sealed::from_bytes),
        })
    }
}

impl FromRow for Digest {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let digest: Vec<u8> = row.column("digest")?;
        Ok(raw::digest(&digest)?)
    }
}

impl FromRow for Updated {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok(Self {
            record: KeyRecord::from_row(row)?,
            digest: Digest::from_row(row)?,
            committed: row.last_change("key_id")?,
        })
    }
}

impl FromRow for TokenRecord {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let roles: String = row.column("roles")?;
        let san: Option<String> = row.column("san")?;
        let revoke_time = row.optional_time("revoke_time")?;
        Ok(Self {
            id: row.id("token_id")?,
            name: SlotName::new("name", row.column("name")?)?,
            roles: Roles::parse(&roles)
                .ok_or_else(|| FieldError::new("roles", "contains an unknown role"))?,
            san: san.map(|san| San::new("san", &san)).transpose()?,
            create_time: row.time("create_time")?,
            expire_time: row.optional_time("expire_time")?,
            revoked: raw::revoked(row.column("revoked")?, revoke_time)?,
            revoke_time,
            revision: row.revision("revision")?,
        })
    }
}

impl FromRow for (KeyId, KeyUse) {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let usage = KeyUse {
            last_use: row.optional_time("last_use")?,
            refused: row.revision("refused_count")?,
            last_refused: row.optional_time("last_refused")?,
        };
        Ok((row.id("key_id")?, usage))
    }
}

impl FromRow for ExpiringKey {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok(Self {
            id: row.id("key_id")?,
            account: row.column("account_id")?,
            name: row.column("name")?,
            create_time: row.time("create_time")?,
            expire_time: row.time("expire_time")?,
        })
    }
}

impl FromRow for Change {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let mark: Vec<u8> = row.column("mark")?;
        Ok(Self {
            revision: row.revision("revision")?,
            mark: raw::mark(&mark)?,
            id: row.id("key_id")?,
        })
    }
}

impl FromRow for AuditEvent {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let position: Option<i64> = row.column("position")?;
        let link = |position| -> Result<Link> {
            Ok(Link {
                position,
                salt: row.column("salt")?,
                personal: row.column("personal")?,
                mac: row.column("mac")?,
            })
        };
        Ok(Self {
            id: row.column("id")?,
            time: row.time("time")?,
            actor_id: row.id_bytes("actor_id")?,
            actor: row.column("actor")?,
            action: row.column("action")?,
            subject: row.id_bytes("subject_id")?,
            detail: row.column("detail")?,
            account: row.column("account_id")?,
            origin: Origin {
                peer: row.column("peer")?,
                client: row.column("client")?,
                request: row.column("request_id")?,
            },
            link: position.map(link).transpose()?,
        })
    }
}

impl FromRow for AuditSeal {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok(Self {
            number: row.column("number")?,
            time: row.time("time")?,
            last_position: row.column("last_position")?,
            last_event: row.column("last_event")?,
            is_complete: row.column("complete")?,
            key: raw::number(row.column("key_version")?)?,
            previous: row.column("previous")?,
            mac: row.column("mac")?,
        })
    }
}

impl FromRow for TrimState {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok(Self {
            first_seal: row.column("first_seal")?,
            proof: row.column("proof")?,
        })
    }
}

impl FromRow for KnownKey {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let (kind, value): (String, Vec<u8>) = (row.column("kind")?, row.column("check_value")?);
        let kind = KeyKind::parse(&kind);
        let state: String = row.column("state")?;
        let state = KnownState::of_columns(&state, row.column("active")?);
        Ok(Self {
            check: CheckValue {
                kind: kind.ok_or_else(|| FieldError::new("kind", "is unknown"))?,
                number: raw::number(row.column("number")?)?,
                value: raw::array("check_value", &value)?,
            },
            state: state.ok_or_else(|| FieldError::new("state", "is unknown"))?,
        })
    }
}

impl KeyringUse {
    /// Adds a row that says how many of `what` need the key `number`.
    pub fn add_row<R: Row>(&mut self, row: &R) -> Result<()> {
        let what: String = row.column("what")?;
        let (number, count) = (raw::number(row.column("number")?)?, row.revision("count")?);
        match what.as_str() {
            "keys" => self.add(KeyKind::Generation, number, |needs| needs.keys = count),
            "tokens" => self.add(KeyKind::Generation, number, |needs| needs.tokens = count),
            "seals" => self.add(KeyKind::Audit, number, |needs| needs.seals = count),
            _ => self.add(KeyKind::Seal, number, |needs| needs.copies = count),
        }
        Ok(())
    }
}

impl FromRow for ClaimedEvent {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        let kind: String = row.column("type")?;
        Ok(Self {
            id: row.column("id")?,
            message: *row.id("message_id")?.as_bytes(),
            key: row.id("key_id")?,
            kind: EventKind::stored(&kind)?,
            time: row.time("time")?,
            at: row.optional_time("at")?,
            claims: row.column("claims")?,
            failures: row.column("failures")?,
        })
    }
}

impl FromRow for EventPlace {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok((row.time("time")?, row.column("id")?))
    }
}

impl FromRow for WebhookStatus {
    fn from_row<R: Row>(row: &R) -> Result<Self> {
        Ok(Self {
            webhook: Webhook::stored(row.column("name")?, &row.texts("events")?)?,
            waiting: row.revision("waiting")?,
            oldest: row.optional_time("oldest")?,
            dead: row.revision("dead")?,
            is_gone: row.column("gone")?,
        })
    }
}

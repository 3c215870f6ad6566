//! When a key expires: what a caller may choose, and the limit of `max_key_age`.

use std::time::Duration;

use super::Service;
use keyward_core::key::{FieldError, KeyRecord, MAX_TTL, Timestamp};
use keyward_store::Expiry;

/// 9999-01-01T00:00:00Z: an expiry must be earlier.
const EXPIRY_LIMIT: Timestamp = Timestamp::from_micros(253_370_764_800_000_000);

impl Service {
    /// The expiry of a key that is created now.
    pub(super) fn expiry_of_new_key(&self, expiry: Expiry) -> Result<Expiry, FieldError> {
        let Some(max) = self.max_key_age else {
            return self.check_expiry(expiry);
        };
        match self.check_expiry(expiry)? {
            Expiry::Never => Ok(Expiry::After(max)),
            Expiry::After(ttl) if ttl > max => Err(FieldError::new(
                "ttl",
                format!(
                    "must be at most {}, the limit of this deployment",
                    shown(max)
                ),
            )),
            Expiry::At(end) => {
                let now = self.store_time();
                self.limited_end("expire_time", Some(end), now)?;
                Ok(Expiry::At(end))
            }
            short => Ok(short),
        }
    }

    /// The end of a key that was created at `created`, when a caller sets it to `end`. `max_key_age`
    /// counts from the creation, so that no sequence of updates makes a key older.
    pub(super) fn limited_end(
        &self,
        field: &'static str,
        end: Option<Timestamp>,
        created: Timestamp,
    ) -> Result<Option<Timestamp>, FieldError> {
        if let Some(end) = end {
            self.check_end(field, end)?;
        }
        let Some(max) = self.max_key_age else {
            return Ok(end);
        };
        let latest = created.plus(max);
        if end.is_some_and(|end| end > latest) {
            let reason = format!(
                "must be at most {} after the creation of the key, the limit of this deployment",
                shown(max)
            );
            return Err(FieldError::new(field, reason));
        }
        if latest <= self.store_time() {
            let reason = format!(
                "cannot be removed: the key is older than {}, the limit of this deployment; replace \
                 the key",
                shown(max)
            );
            return Err(FieldError::new(field, reason));
        }
        Ok(Some(end.unwrap_or(latest)))
    }

    /// How long the successor of a key lives. With `max_key_age` it begins a life of its own: as long as
    /// its predecessor was meant to live, at most `max_key_age`. Otherwise `None`: it inherits the expiry.
    pub(super) fn lifetime_of_successor(&self, predecessor: &KeyRecord) -> Option<Duration> {
        let max = self.max_key_age?;
        let end = predecessor.expire_time;
        Some(end.map_or(max, |end| end.since(predecessor.create_time).min(max)))
    }

    pub(super) fn check_expiry(&self, expiry: Expiry) -> Result<Expiry, FieldError> {
        match expiry {
            Expiry::Never => {}
            Expiry::At(end) => self.check_end("expire_time", end)?,
            Expiry::After(ttl) if ttl >= Duration::from_secs(1) && ttl <= MAX_TTL => {}
            Expiry::After(_) => {
                let reason = "must be 1 second to 100 years of 365 days";
                return Err(FieldError::new("ttl", reason));
            }
        }
        Ok(expiry)
    }

    /// Refuses an expiry that is not after the store's time or not before `EXPIRY_LIMIT`.
    fn check_end(&self, field: &'static str, end: Timestamp) -> Result<(), FieldError> {
        if end <= self.store_time() {
            return Err(FieldError::new(field, "must be in the future"));
        }
        if end >= EXPIRY_LIMIT {
            return Err(FieldError::new(field, "must be before the year 9999"));
        }
        Ok(())
    }
}

/// A limit for people. The months of `humantime` have fractions of days.
fn shown(limit: Duration) -> String {
    const DAY: u64 = 24 * 3_600;
    match (limit.as_secs() / DAY, limit.as_secs() % DAY) {
        (1, 0) => "1 day".to_owned(),
        (days, 0) if days > 1 => format!("{days} days"),
        _ => humantime::format_duration(limit).to_string(),
    }
}

//! Lists of keys.

use super::keys::is_dead;
use super::server::Transaction;
use keyward_core::fence::state_at;
use keyward_core::key::{KeyId, KeyRecord, Timestamp};
use keyward_store::{EXAMINED, KeyPage, ListKeys};

impl Transaction<'_> {
    pub(crate) fn list(&self, query: &ListKeys) -> KeyPage {
        let now = self.now;
        let records = self.database.keys.values().map(|row| &row.record);
        let of_account = |record: &&KeyRecord| {
            let account = query.account.as_ref();
            account.is_none_or(|account| *account == record.account)
        };
        let most = usize::try_from(EXAMINED).unwrap_or(usize::MAX);
        let examined: Vec<_> = records
            .filter(of_account)
            .filter(|record| Some(record.id) > query.after)
            .take(most)
            .collect();
        let is_wanted = |record: &&&KeyRecord| {
            let state = match query.state {
                Some(state) => state_at(record, now) == state,
                None => query.include_revoked || !is_dead(record.revoked, record.revoke_time, now),
            };
            let prefix = query.name_prefix.as_ref();
            let last_use = self.last_use(record.id).unwrap_or(record.create_time);
            let is_since =
                |least, time| Option::is_none_or(least, |least| now.since(time) >= least);
            state
                && prefix.is_none_or(|text| record.name.as_str().starts_with(text.as_str()))
                && is_since(query.older_than, record.create_time)
                && is_since(query.unused_for, last_use)
        };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let keys = examined.iter().filter(is_wanted).take(limit);
        let last = examined.last().map(|record| record.id);
        let bound = last.filter(|_| examined.len() == most);
        let keys = keys.map(|record| (**record).clone()).collect();
        KeyPage::new(keys, query.limit, bound)
    }

    fn last_use(&self, id: KeyId) -> Option<Timestamp> {
        self.database.uses.get(&id)?.last_use
    }
}

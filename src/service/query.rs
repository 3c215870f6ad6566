//! Get and List: read records from the store, never secrets.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::{Service, ServiceError};
use keyward_core::key::{AccountId, FieldError, KeyId, KeyRecord, MAX_TTL, SecretText, Timestamp};
use keyward_store::{KeyTarget, ListKeys};

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1_000;
/// The approximate maximum of a page, in bytes. gRPC clients accept 4 MiB by default.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// The requested page.
#[derive(Debug)]
pub struct PageQuery {
    /// The maximum number of items; 0 means 50, more than 1000 means 1000.
    pub size: i32,
    /// The token of the previous page; empty for the first page.
    pub token: String,
}

/// One page.
#[derive(Debug)]
pub struct Page<T> {
    /// The items of the page.
    pub items: Vec<T>,
    /// The token for the next page; empty on the last page.
    pub next: String,
    /// The store's time, which decides the keys' states.
    pub at: Timestamp,
}

impl PageQuery {
    pub(super) fn limit(&self) -> Result<u32, FieldError> {
        match u32::try_from(self.size) {
            Ok(0) => Ok(DEFAULT_SIZE),
            Ok(size) => Ok(size.min(MAX_SIZE)),
            Err(_) => Err(FieldError::new("page_size", "must not be negative")),
        }
    }

    /// The last id of the previous page. A token is valid only for the query that returned it.
    pub(super) fn after(&self, query: &[&[u8]]) -> Result<Option<KeyId>, FieldError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let wrong = || {
            FieldError::new(
                "page_token",
                "is not valid for this query; send the next_page_token of its previous page",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(&self.token).map_err(|_| wrong())?;
        let (bound, id) = bytes.split_at_checked(8).ok_or_else(wrong)?;
        if bound != fingerprint(query) {
            return Err(wrong());
        }
        id.try_into()
            .map(|id| Some(KeyId::from_bytes(id)))
            .map_err(|_| wrong())
    }
}

/// The token of the page after `last`.
pub(super) fn token_after(query: &[&[u8]], last: KeyId) -> String {
    let mut bytes = fingerprint(query).to_vec();
    bytes.extend_from_slice(last.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Distinguishes queries. It needs no secret: a forged token shows nothing that the query would not.
fn fingerprint(query: &[&[u8]]) -> [u8; 8] {
    let mut hash = Sha256::new();
    for part in query {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    first
}

/// Cuts `items`, which were read with one item more than `limit`, to a page within all limits.
pub(super) fn page<T>(
    mut items: Vec<T>,
    id_and_size: impl Fn(&T) -> (KeyId, usize),
    limit: u32,
    query: &[&[u8]],
    at: Timestamp,
) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = 0;
    let fitting = items.iter().take_while(|item| {
        bytes += id_and_size(item).1;
        bytes <= MAX_PAGE_BYTES
    });
    let kept = fitting.count().clamp(1, limit);
    let more = items.len() > kept;
    items.truncate(kept);
    let next = match items.last() {
        Some(last) if more => token_after(query, id_and_size(last).0),
        _ => String::new(),
    };
    Page { items, next, at }
}

impl Service {
    /// Shows one key, in any state, by its public name.
    pub async fn get(self: &Arc<Self>, id: KeyId) -> Result<(KeyRecord, Timestamp), ServiceError> {
        self.get_by(KeyTarget::Id(id)).await
    }

    /// Shows one key, in any state, by its text.
    pub async fn get_by_text(
        self: &Arc<Self>,
        text: &SecretText,
    ) -> Result<(KeyRecord, Timestamp), ServiceError> {
        let digests = self
            .recognise(text.expose())
            .map_err(|_| ServiceError::KeyNotFound)?;
        self.get_by(KeyTarget::Digests(digests)).await
    }

    async fn get_by(
        self: &Arc<Self>,
        target: KeyTarget,
    ) -> Result<(KeyRecord, Timestamp), ServiceError> {
        let found = self
            .read(|service| async move { Ok(service.store.get_key(&target).await?) })
            .await?;
        Ok((
            found.ok_or(ServiceError::KeyNotFound)?.record,
            self.store_time(),
        ))
    }

    /// Lists the keys of an account, page by page.
    pub async fn list(
        self: &Arc<Self>,
        account: AccountId,
        include_revoked: bool,
        older_than: Option<Duration>,
        page_query: PageQuery,
    ) -> Result<Page<KeyRecord>, ServiceError> {
        if older_than.is_some_and(|least| least > MAX_TTL) {
            let reason = "must be at most 100 years of 365 days";
            return Err(FieldError::new("older_than", reason).into());
        }
        let least = older_than.map(|least| least.as_micros().to_be_bytes());
        let query: [&[u8]; 4] = [
            b"keys",
            account.as_str().as_bytes(),
            if include_revoked { b"all" } else { b"live" },
            least.as_ref().map_or(b"", |least| &least[..]),
        ];
        let limit = page_query.limit()?;
        let after = page_query.after(&query)?;
        let list = ListKeys {
            account: Some(account.clone()),
            include_revoked,
            older_than,
            after,
            limit: limit + 1,
        };
        let items = self
            .read(|service| async move { Ok(service.store.list_keys(list).await?) })
            .await?;
        let id_and_size = |key: &KeyRecord| (key.id, key.size());
        Ok(page(items, id_and_size, limit, &query, self.store_time()))
    }
}

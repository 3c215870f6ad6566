//! Get and List: read records from the store, never secrets.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::{KeyUses, Service, ServiceError};
use keyward_core::key::{
    AccountId, FieldError, KeyId, KeyRecord, MAX_TTL, SecretText, SlotName, Timestamp,
};
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

/// One key.
#[derive(Debug)]
pub struct GetReply {
    /// The record of the key.
    pub record: KeyRecord,
    /// Its use.
    pub uses: KeyUses,
    /// The store's time, which decides the key's state.
    pub at: Timestamp,
}

impl Service {
    /// Shows one key, in any state, by its public name.
    pub async fn get(self: &Arc<Self>, id: KeyId) -> Result<GetReply, ServiceError> {
        self.get_by(KeyTarget::Id(id)).await
    }

    /// Shows one key, in any state, by its text.
    pub async fn get_by_text(
        self: &Arc<Self>,
        text: &SecretText,
    ) -> Result<GetReply, ServiceError> {
        let digests = self
            .recognise(text.expose())
            .map_err(|_| ServiceError::KeyNotFound)?;
        self.get_by(KeyTarget::Digests(digests)).await
    }

    async fn get_by(self: &Arc<Self>, target: KeyTarget) -> Result<GetReply, ServiceError> {
        self.read(|service| async move {
            let found = service.store.get_key(&target).await?;
            let record = found.ok_or(ServiceError::KeyNotFound)?.record;
            Ok(GetReply {
                uses: service.uses_of(vec![record.id]).await?,
                record,
                at: service.store_time(),
            })
        })
        .await
    }

    /// Lists keys, page by page. The filters are those of `list`.
    pub async fn list(
        self: &Arc<Self>,
        list: ListKeys,
        page_query: PageQuery,
    ) -> Result<(Page<KeyRecord>, KeyUses), ServiceError> {
        for (field, least) in [
            ("older_than", list.older_than),
            ("unused_for", list.unused_for),
        ] {
            if least.is_some_and(|least| least > MAX_TTL) {
                return Err(FieldError::new(field, "must be at most 100 years of 365 days").into());
            }
        }
        let bytes = |least: Option<Duration>| least.map(|least| least.as_micros().to_be_bytes());
        let (older_than, unused_for) = (bytes(list.older_than), bytes(list.unused_for));
        let account = list.account.clone();
        let account = account.as_ref().map(AccountId::as_str);
        let prefix = list.name_prefix.clone();
        let state = list.state.map(|state| [state as u8]);
        let query: [&[u8]; 7] = [
            b"keys",
            account.unwrap_or_default().as_bytes(),
            if list.include_revoked {
                b"all"
            } else {
                b"live"
            },
            older_than.as_ref().map_or(b"", |least| &least[..]),
            unused_for.as_ref().map_or(b"", |least| &least[..]),
            state.as_ref().map_or(b"", |state| &state[..]),
            prefix.as_ref().map_or("", SlotName::as_str).as_bytes(),
        ];
        self.list_page(list, &query, page_query).await
    }

    /// The page of a list that `query` identifies.
    pub(super) async fn list_page(
        self: &Arc<Self>,
        list: ListKeys,
        query: &[&[u8]],
        page_query: PageQuery,
    ) -> Result<(Page<KeyRecord>, KeyUses), ServiceError> {
        let limit = page_query.limit()?;
        let after = page_query.after(query)?;
        let list = ListKeys {
            after,
            limit: limit + 1,
            ..list
        };
        let found = self
            .read(|service| async move { Ok(service.store.list_keys(list).await?) })
            .await?;
        let id_and_size = |key: &KeyRecord| (key.id, key.size());
        let mut page = page(found.keys, id_and_size, limit, query, self.store_time());
        if let (true, Some(last)) = (page.next.is_empty(), found.examined_to) {
            page.next = token_after(query, last);
        }
        let ids = page.items.iter().map(|key| key.id).collect();
        let uses = self.read(|service| async move { service.uses_of(ids).await });
        let uses = uses.await?;
        Ok((page, uses))
    }
}

//! Callers whose last token expires soon, or has just expired: for an alert, and for `keyward doctor`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::key::{SlotName, Timestamp, TokenRecord};
use keyward_ops::CallerMetrics;
use keyward_store::{Result, Store};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// A token that ends this soon is worth a warning. A token that was made for so short a time is not: a program
/// makes the next one.
pub const SOON: Duration = DAY.saturating_mul(14);
/// How long an expired token counts. Later its caller is gone.
const MISSED: Duration = DAY.saturating_mul(7);
/// The number of tokens that are read at once.
const PAGE: u32 = 10_000;
const INTERVAL: Duration = Duration::from_secs(60);

/// The last token of each caller whose tokens expire, the earliest first. Callers are told apart by their names.
///
/// # Errors
///
/// Those of the store.
pub async fn expiring(store: &dyn Store) -> Result<Vec<TokenRecord>> {
    let (mut last, mut after) = (LastTokens::new(), None);
    loop {
        let tokens = store.list_tokens(false, Some(MISSED), after, PAGE).await?;
        let Some(token) = tokens.last() else {
            return Ok(in_order(last));
        };
        after = Some(token.id);
        tokens.into_iter().for_each(|token| note(&mut last, token));
    }
}

/// The last token of each caller so far.
type LastTokens = HashMap<SlotName, TokenRecord>;

fn note(last: &mut LastTokens, token: TokenRecord) {
    // A token that is being revoked ends on purpose.
    if token.revoke_time.is_some() {
        return;
    }
    let other = last.get(&token.name).map(end);
    if other.is_none_or(|other| other < end(&token)) {
        last.insert(token.name.clone(), token);
    }
}

fn in_order(last: LastTokens) -> Vec<TokenRecord> {
    let counts = |token: &TokenRecord| {
        let end = end(token);
        end != Timestamp::NEVER && end.since(token.create_time) > SOON
    };
    let mut last: Vec<_> = last.into_values().filter(counts).collect();
    last.sort_unstable_by_key(end);
    last
}

fn end(token: &TokenRecord) -> Timestamp {
    token.expire_time.unwrap_or(Timestamp::NEVER)
}

/// Measures when the first caller's last token expires, every minute until `stop`.
pub async fn measure(store: Arc<dyn Store>, metrics: CallerMetrics, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // The store's calls are logged where they fail.
        if let Ok(expiring) = expiring(&*store).await {
            let first = expiring.first().map_or(0, |token| end(token).as_micros());
            metrics.token_expire_time.set(first / 1_000_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::key::{KeyId, Role};

    /// The first and the last day of a token; it may never end.
    fn token(name: &str, first: i32, last: Option<i32>) -> TokenRecord {
        let day = |day: i32| Timestamp::from_micros(i64::from(day) * 86_400_000_000);
        TokenRecord {
            id: KeyId::IMPORTS,
            name: SlotName::new("name", name.to_owned()).unwrap(),
            roles: [Role::Reader].into_iter().collect(),
            san: None,
            create_time: day(first),
            expire_time: last.map(day),
            revoke_time: None,
            revoked: false,
            revision: 0,
        }
    }

    fn named(tokens: Vec<TokenRecord>) -> Vec<String> {
        let mut last = LastTokens::new();
        tokens.into_iter().for_each(|token| note(&mut last, token));
        in_order(last)
            .iter()
            .map(|token| token.name.to_string())
            .collect()
    }

    #[test]
    fn the_last_token_of_each_caller_counts() {
        let replaced = [
            token("replaced", 900, Some(1_001)),
            token("replaced", 999, Some(1_100)),
        ];
        let forever = [
            token("forever", 900, Some(1_001)),
            token("forever", 999, None),
        ];
        let one = [
            token("one", 900, Some(1_002)),
            token("two", 900, Some(1_001)),
        ];
        for reversed in [false, true] {
            let mut tokens = [&replaced[..], &forever, &one].concat();
            if reversed {
                tokens.reverse();
            }
            assert_eq!(named(tokens), ["two", "one", "replaced"]);
        }
    }

    #[test]
    fn tokens_that_end_on_purpose_do_not_count() {
        let short = token("short", 999, Some(1_013));
        let long = token("long", 999, Some(1_014));
        let revoked = TokenRecord {
            revoke_time: Some(short.create_time),
            ..token("revoked", 900, Some(1_001))
        };
        assert_eq!(named(vec![short, long, revoked]), ["long"]);
    }
}

//! The calls of callers, and what their answers promise.

use std::sync::Arc;
use std::time::Duration;

use keyward::auth::{Caller, Denied};
use keyward::cache::Consistency;
use keyward::service::{Issue, NewCaller, Revoke, RevokeTarget, ServiceError, Verify};
use keyward_core::fence::{Ask, CommittedChange};
use keyward_core::key::{
    AccountId, KeyId, KeyRecord, Metadata, Networks, Role, Scopes, SecretText, SlotName, Verdict,
};
use keyward_store::{Expiry, KeyChanges, Revoked};
use tokio::time::sleep;

use crate::instance::Instance;
use crate::world::{Known, World};

/// How long after a read of an old primary its answer can still be used, in microseconds.
const OLD_READ: u64 = 1_000_000;

/// A caller of one instance.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) instance: Arc<Instance>,
}

impl Client {
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        let index = self.instance.index;
        self.world.tell(|| format!("  {index}: {}", line()));
    }

    pub(crate) fn name(&self, known: &Known) -> String {
        let account = (!known.account.is_empty()).then_some(known.account.as_str());
        let at = self.world.now();
        self.world.judge.lock().know(at, known.id, account)
    }

    pub(crate) async fn caller(&self) -> Option<Caller> {
        self.instance.link.running().await;
        let caller = self.instance.authenticate(&self.world.token).await;
        if let Err(denied @ (Denied::Missing | Denied::Invalid(_))) = &caller {
            let refused = format!("instance {}: a live token: {denied}", self.instance.index);
            self.world.judge.lock().faults.push(refused);
        }
        caller.ok()
    }

    /// Whether a call ended well. An error that no fault explains is a violation.
    pub(crate) async fn answer<T>(
        &self,
        what: &str,
        outcome: Result<T, ServiceError>,
    ) -> Option<T> {
        // The answer of a process that does not run arrives later, or never.
        self.instance.link.running().await;
        match outcome {
            Ok(reply) => Some(reply),
            Err(error) => {
                self.tell(|| format!("{what}: {error:?}"));
                if matches!(error, ServiceError::Internal | ServiceError::Field(_)) {
                    let unexpected = format!("{what}: {error:?}");
                    self.world.judge.lock().faults.push(unexpected);
                }
                None
            }
        }
    }

    pub(crate) async fn verify(&self, known: &Known, consistency: Consistency) -> Option<Verdict> {
        self.instance.link.running().await;
        let began = self.world.now();
        let verdict = self.ask(known.text.clone(), consistency).await;
        self.verified(known, began, verdict);
        verdict
    }

    /// The verdict on a text; `None` for UNAVAILABLE.
    pub(crate) async fn ask(&self, text: SecretText, consistency: Consistency) -> Option<Verdict> {
        let link = &self.instance.link;
        link.running().await;
        let verify = Verify {
            text,
            ask: Ask::default(),
            consistency,
            wants_entry: false,
        };
        let verdict = self.instance.service.verify(&verify).await;
        link.running().await;
        verdict.ok().map(|verified| verified.verdict)
    }

    pub(crate) async fn verify_token(&self, known: &Known) {
        let link = &self.instance.link;
        link.running().await;
        let began = self.world.now();
        let caller = self.instance.authenticate(&known.text).await;
        link.running().await;
        let verdict = match caller {
            Ok(_) => Some(Verdict::Valid),
            // Unknown or revoked.
            Err(Denied::Invalid(_)) => Some(Verdict::NotFound),
            Err(_) => None,
        };
        self.verified(known, began, verdict);
    }

    fn verified(&self, known: &Known, began: u64, verdict: Option<Verdict>) {
        let (ended, index) = (self.world.now(), self.instance.index);
        // An old primary does not have a new key. It is asked for at most `max_staleness`.
        let old_read = self.instance.link.old_read();
        let is_old = old_read > 0 && old_read + OLD_READ > began;
        let verdict = verdict.filter(|verdict| !is_old || *verdict != Verdict::NotFound);
        self.world
            .count(verdict.map_or("verify: UNAVAILABLE", count_of));
        self.tell(|| format!("verify {}: {verdict:?}", self.name(known)));
        let mut judge = self.world.judge.lock();
        judge.verified(known.id, index, (began, ended), verdict);
    }

    /// Issues the key of a slot. Returns the key if this call created it.
    pub(crate) async fn issue(
        &self,
        account: &str,
        slot: &str,
        expiry: Expiry,
    ) -> Option<Arc<Known>> {
        let caller = self.caller().await?;
        let issue = Issue {
            account: AccountId::new("account", account.to_owned()).ok()?,
            name: SlotName::new("name", slot.to_owned()).ok()?,
            scopes: Scopes::default(),
            metadata: Metadata::default(),
            networks: Networks::default(),
            recoverable: false,
            expiry,
        };
        let outcome = self.instance.service.issue(&caller, issue).await;
        let reply = self.answer("issue", outcome).await?;
        self.world.count("issue: OK");
        let text = reply.secret.filter(|_| reply.created)?;
        Some(self.created(&reply.record, text))
    }

    /// Whether a failover lost a key or token before its caller heard of it.
    pub(crate) fn is_lost(&self, id: KeyId) -> bool {
        let server = &self.world.server;
        server.look(|database| database.key(id).is_none() && database.token(id).is_none())
    }

    /// Remembers a key that a call created.
    fn created(&self, record: &KeyRecord, text: SecretText) -> Arc<Known> {
        let known = Arc::new(Known {
            id: record.id,
            text,
            account: record.account.as_str().to_owned(),
        });
        let name = self.name(&known);
        let at = self.world.now();
        // A successor of a disabled key is disabled.
        if record.disabled || self.is_lost(known.id) {
            self.world.judge.lock().dying(at, known.id);
        }
        if let Some(end) = record.expire_time {
            let nothing = CommittedChange::NOTHING;
            self.world.judge.lock().expires(at, known.id, end, nothing);
        }
        self.tell(|| {
            format!(
                "issued {name} in {}/{}",
                record.account.as_str(),
                record.name
            )
        });
        self.world.keys.lock().push(Arc::clone(&known));
        known
    }

    /// Revokes one key, by its id or by its text. Returns whether the call returned OK.
    pub(crate) async fn revoke(
        &self,
        known: &Known,
        (replace, grace): (bool, Duration),
        by_text: bool,
    ) -> bool {
        let target = match by_text {
            true => RevokeTarget::Text(SecretText::new(known.text.expose().to_owned())),
            false => RevokeTarget::Key(known.id),
        };
        let what = format!("revoke {}", self.name(known));
        let is_done = self.end(target, (replace, grace), &what, |world| {
            world.judge.lock().dying(world.now(), known.id);
        });
        let is_done = is_done.await;
        if is_done {
            self.probe(known);
        }
        is_done
    }

    /// Asks every instance about a key or token at once, because a call has just said that it is dead.
    pub(crate) fn probe(&self, known: &Known) {
        let (is_token, known) = (known.account.is_empty(), Arc::new(known.clone()));
        let running = self.world.instances.lock();
        let stopping = self.world.stopping.lock();
        for instance in running.iter().flatten().chain(stopping.iter()) {
            let client = Self {
                world: Arc::clone(&self.world),
                instance: Arc::clone(instance),
            };
            let known = Arc::clone(&known);
            tokio::spawn(async move {
                // The next moment: the promise does not count for a call that began before.
                sleep(Duration::from_millis(1)).await;
                match is_token {
                    true => client.verify_token(&known).await,
                    false => drop(client.verify(&known, Consistency::Default).await),
                }
            });
        }
    }

    pub(crate) async fn revoke_account(&self, account: &str) {
        let Ok(id) = AccountId::new("account", account.to_owned()) else {
            return;
        };
        let (target, began) = (RevokeTarget::Account(id), self.world.now());
        let nothing = (false, Duration::ZERO);
        let what = format!("revoke account {account}");
        let is_done = self.end(target, nothing, &what, |world| {
            world.judge.lock().account_dying(world.now(), account);
        });
        if is_done.await {
            let at = self.world.now();
            let mut judge = self.world.judge.lock();
            for id in judge.dead_of(account, began) {
                judge.promised(at, id, u64::MAX);
            }
            drop(judge);
            let keys = self.world.keys.lock();
            let mine = keys.iter().rev().filter(|key| key.account == account);
            mine.take(2).for_each(|key| self.probe(key));
        }
    }

    async fn end(
        &self,
        target: RevokeTarget,
        (replace, grace): (bool, Duration),
        what: &str,
        dying: impl FnOnce(&World),
    ) -> bool {
        let Some(caller) = self.caller().await else {
            return false;
        };
        let revoke = Revoke {
            target,
            replace,
            grace,
            reason: None,
        };
        dying(&self.world);
        self.tell(|| format!("{what} ..."));
        let outcome = self.instance.service.revoke(&caller, revoke).await;
        let Some(Some(reply)) = self.answer(what, outcome).await else {
            return false;
        };
        self.world.count("revoke: OK");
        if reply.receipt.waited_out > 0 {
            self.world.count("revoke: waited for a bound");
        }
        self.tell(|| format!("{what}: OK, {:?}", reply.receipt));
        self.ended(what, &reply.revoked);
        if let (Some(successor), Some(text)) = (&reply.revoked.successor, reply.secret) {
            self.world.count("revoke: replaced");
            self.created(&successor.record, text);
        }
        true
    }

    /// A call returned OK about this change. Returns whether the store still has it.
    pub(crate) fn acknowledged(&self, what: &str, change: CommittedChange) -> bool {
        let confirmed = self.instance.link.confirmed();
        let mut judge = self.world.judge.lock();
        let server = &self.world.server;
        server.look(|database| judge.acknowledge(change, what.to_owned(), confirmed, database))
    }

    /// A call returned OK that says that keys are dead.
    pub(crate) fn ended(&self, what: &str, revoked: &Revoked) {
        if self.acknowledged(what, revoked.committed) {
            let at = self.world.now();
            let mut judge = self.world.judge.lock();
            for key in &revoked.keys {
                judge.promised(at, key.id, revoked.committed.revision);
            }
        }
    }

    /// Changes a key; with `disables`, in a way that ends it.
    pub(crate) async fn update(&self, known: &Known, disables: bool) -> Option<()> {
        let caller = self.caller().await?;
        let name = self.name(known);
        let changes = match disables {
            true => {
                self.world.judge.lock().dying(self.world.now(), known.id);
                KeyChanges {
                    disabled: Some(true),
                    ..KeyChanges::default()
                }
            }
            false => {
                let note = ("now".to_owned(), self.world.now().to_string());
                KeyChanges {
                    metadata: Metadata::new("metadata", [note].into()).ok(),
                    ..KeyChanges::default()
                }
            }
        };
        let what = format!("update {name}, disabled {disables}");
        self.tell(|| format!("{what} ..."));
        let outcome = self
            .instance
            .service
            .update(&caller, known.id, changes)
            .await;
        let reply = self.answer(&what, outcome).await?;
        self.world.count("update: OK");
        self.tell(|| format!("{what}: OK, {:?}", reply.receipt));
        if disables {
            let at = self.world.now();
            let mut judge = self.world.judge.lock();
            judge.promised(at, known.id, reply.record.revision);
            drop(judge);
            self.probe(known);
        }
        Some(())
    }

    pub(crate) async fn create_token(&self) -> Option<()> {
        let caller = self.caller().await?;
        let name = SlotName::new("name", "other".to_owned()).ok()?;
        let new = NewCaller {
            name,
            roles: [Role::Verifier].into_iter().collect(),
            expiry: Expiry::Never,
            san: None,
        };
        let outcome = self.instance.service.create_token(&caller, new).await;
        let reply = self.answer("create token", outcome).await?;
        self.world.count("create token: OK");
        let known = Arc::new(Known {
            id: reply.record.id,
            text: reply.secret?,
            account: String::new(),
        });
        self.name(&known);
        if self.is_lost(known.id) {
            let at = self.world.now();
            self.world.judge.lock().dying(at, known.id);
        }
        self.world.tokens.lock().push(known);
        Some(())
    }

    pub(crate) async fn revoke_token(&self, known: &Known) -> Option<()> {
        let caller = self.caller().await?;
        let what = format!("revoke {}", self.name(known));
        self.world.judge.lock().dying(self.world.now(), known.id);
        let outcome = self.instance.service.revoke_token(&caller, known.id).await;
        let (record, _) = self.answer(&what, outcome).await?;
        self.world.count("revoke token: OK");
        self.tell(|| format!("{what}: OK"));
        let at = self.world.now();
        let mut judge = self.world.judge.lock();
        judge.promised(at, known.id, record.revision);
        drop(judge);
        self.probe(known);
        Some(())
    }
}

fn count_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "verify: VALID",
        Verdict::NotFound => "verify: NOT_FOUND",
        _ => "verify: another verdict",
    }
}

//! Keys of another product: callers ask for their texts, import them, and import them again under any scheme,
//! dead or alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward::cache::Consistency;
use keyward::service::{ForeignKey, Given, GivenScheme, ImportKeys, ImportResult};
use keyward_core::key::{
    AccountId, BatchId, Entropy, KeyId, KeyRecord, Metadata, Networks, Scopes, SecretText,
    SlotName, Verdict,
};
use keyward_crypto::DigestScheme;
use keyward_store::ImportOutcome;
use keyward_store_memory::Database;
use keyward_testkit::{Random, Scheme};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::calls::Client;
use crate::hunt::client;
use crate::run::is_boring;
use crate::world::{Known, World};

const ASKED: &str = "a text was asked for before its import";
const AGAIN: &str = "import: a revoked key again";
const SECOND: &str = "import: a revoked key again, under another scheme";
const UNDONE: &str = "undo of an import: OK";
/// What enough seeds show.
pub(crate) const EVENTS: [&str; 4] = [ASKED, AGAIN, SECOND, UNDONE];

/// The choices of imports. They are apart, so that the other choices of a seed do not depend on them.
pub(crate) struct Imports {
    random: Random,
    /// The number of texts that were sent to an import.
    sent: AtomicU64,
    batches: Mutex<Vec<BatchId>>,
}

impl Imports {
    /// `None` if the run of this seed has no imports.
    pub(crate) fn of(seed: u64) -> Option<Self> {
        let random = Random::new(!seed);
        random.chance(40).then(|| Self {
            random,
            sent: AtomicU64::new(0),
            batches: Mutex::default(),
        })
    }

    /// The number of a new text, or of one of the newest.
    fn number(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        match sent == 0 || self.random.chance(40) {
            true => self.sent.fetch_add(1, Ordering::Relaxed),
            false => sent - self.random.between(1, sent.min(5)),
        }
    }

    /// A new batch, or one that another call has begun.
    fn batch(&self) -> BatchId {
        let mut batches = self.batches.lock();
        if self.random.chance(25)
            && let Some(known) = self.random.pick(&batches)
        {
            return *known;
        }
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        let new = BatchId::from_bytes(bytes);
        batches.push(new);
        new
    }

    /// A key with the text of this number, as the other product exports it.
    fn key(&self, world: &World, number: u64) -> Option<ForeignKey> {
        let (scheme, text) = (*self.random.pick(&Scheme::ALL)?, text_of(number));
        let digest = |named| {
            let digest = scheme.key("", text.expose()).digest.try_into().ok()?;
            Some(Given::Digest(GivenScheme::Named(named), digest))
        };
        let given = match scheme {
            Scheme::Text => Given::Text(text.clone()),
            Scheme::Sha256 => digest(DigestScheme::Sha256)?,
            Scheme::Hmac(secret) => digest(DigestScheme::HmacSha256(secret.try_into().ok()?))?,
        };
        // A slot that keys of Keyward take, too, or one that only this text has under this scheme.
        let slot = match self.random.chance(15) {
            true => "one".to_owned(),
            false => format!("{scheme:?}-{number}").replace(['(', ')'], ""),
        };
        let lifetime = Duration::from_secs(self.random.between(1, 5));
        let expires = self.random.chance(15);
        Some(ForeignKey {
            account: AccountId::new("account", account_of(number).to_owned()).ok()?,
            name: SlotName::new("name", slot).ok()?,
            given,
            scopes: Scopes::new("scopes", vec![format!("text-{number}")]).ok()?,
            metadata: Metadata::default(),
            networks: Networks::default(),
            create_time: None,
            expire_time: expires.then(|| world.server.now().plus(lifetime)),
            recoverable: false,
        })
    }
}

fn text_of(number: u64) -> SecretText {
    SecretText::new(format!("2e4a1d1e-6f0c-4d2a-9a2f-{number:012x}"))
}

/// Nobody revokes the account "moved" as a whole: such a call may end keys that are imported later.
fn account_of(number: u64) -> &'static str {
    if number.is_multiple_of(3) {
        "a"
    } else {
        "moved"
    }
}

/// Imports keys, and undoes imports, for ever.
pub(crate) async fn move_in(world: Arc<World>) {
    let Some(imports) = &world.imports else {
        return;
    };
    let random = &imports.random;
    let pace = random.between(100, 600);
    loop {
        sleep(Duration::from_millis(random.between(1, 2 * pace))).await;
        if is_boring(&world) {
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        let Some(instance) = world.instance() else {
            continue;
        };
        let client = client(&world, &instance);
        if random.chance(10) {
            let batch = random.pick(&imports.batches.lock()).copied();
            if let Some(batch) = batch {
                tokio::spawn(async move { client.undo(batch).await });
            }
            continue;
        }
        let count = random.between(1, 3);
        let numbers: Vec<u64> = (0..count).map(|_| imports.number()).collect();
        if random.chance(70) {
            ask_everywhere(&world, random, &numbers);
        }
        let delay = random.below(300);
        tokio::spawn(async move {
            sleep(Duration::from_millis(delay)).await;
            client.import(numbers).await;
        });
    }
}

/// Asks instances for texts that may be imported meanwhile.
fn ask_everywhere(world: &Arc<World>, random: &Random, numbers: &[u64]) {
    for instance in world.instances.lock().iter().flatten() {
        let (client, delay) = (client(world, instance), random.below(300));
        let numbers = numbers.to_vec();
        tokio::spawn(async move {
            sleep(Duration::from_millis(delay)).await;
            for number in numbers {
                let verdict = client.ask(text_of(number), Consistency::Default).await;
                if verdict == Some(Verdict::NotFound) {
                    client.world.count(ASKED);
                }
            }
        });
    }
}

impl Client {
    async fn import(&self, numbers: Vec<u64>) -> Option<()> {
        let imports = self.world.imports.as_ref()?;
        let caller = self.caller().await?;
        let keys = numbers
            .iter()
            .map(|number| imports.key(&self.world, *number));
        let keys: Option<Vec<_>> = keys.collect();
        let import = ImportKeys {
            batch: imports.batch(),
            keys: keys?.into_iter().map(Ok).collect(),
            dry_run: false,
        };
        let what = format!("import {} of the texts {numbers:?}", import.batch);
        self.tell(|| format!("{what} ..."));
        let outcome = self.instance.service.import(&caller, import).await;
        let reply = self.answer(&what, outcome).await?;
        self.world.count("import: OK");
        self.tell(|| format!("{what}: OK, {:?}", reply.results));
        if !self.acknowledged(&what, reply.committed) {
            return None;
        }
        for (number, result) in numbers.into_iter().zip(reply.results) {
            match result {
                ImportResult::Decided(ImportOutcome::Imported(id)) => {
                    self.moved_in(number, id, SECOND)
                }
                ImportResult::Decided(ImportOutcome::Known(key)) => {
                    self.moved_in(number, key.id, AGAIN)
                }
                _ => {}
            }
        }
        Some(())
    }

    /// A call returned OK that says that the store has this key: every instance must find its text. `dead` is
    /// what happened if it must not be valid.
    fn moved_in(&self, number: u64, id: KeyId, dead: &'static str) {
        let (at, account) = (self.world.now(), account_of(number).to_owned());
        let known = Known {
            id,
            text: text_of(number),
            account,
        };
        self.name(&known);
        let mut judge = self.world.judge.lock();
        if judge.is_revoked(id) {
            self.world.count(dead);
        }
        if self.is_lost(id) {
            judge.dying(at, id);
        }
        drop(judge);
        let mut keys = self.world.keys.lock();
        if keys.iter().all(|key| key.id != id) {
            keys.push(Arc::new(known.clone()));
        }
        drop(keys);
        self.probe(&known);
    }

    async fn undo(&self, batch: BatchId) -> Option<()> {
        let caller = self.caller().await?;
        let what = format!("undo {batch}");
        self.tell(|| format!("{what} ..."));
        let outcome = self
            .instance
            .service
            .undo_import(&caller, batch, None)
            .await;
        let (revoked, receipt) = self.answer(&what, outcome).await?;
        self.world.count(UNDONE);
        self.tell(|| format!("{what}: OK, {receipt:?}"));
        self.ended(&what, &revoked);
        let is_revoked = |key: &&Arc<Known>| revoked.keys.iter().any(|dead| dead.id == key.id);
        let keys = self.world.keys.lock();
        keys.iter()
            .filter(is_revoked)
            .for_each(|key| self.probe(key));
        Some(())
    }
}

/// Which imported keys have the same text. To the judge they are one key, which is dead if one of them is.
#[derive(Default)]
pub(crate) struct Texts {
    /// The first key of each text.
    firsts: BTreeMap<String, KeyId>,
    of: BTreeMap<KeyId, KeyId>,
}

impl Texts {
    /// The first key with the text of this one.
    pub(crate) fn first(&self, id: KeyId) -> KeyId {
        self.of.get(&id).copied().unwrap_or(id)
    }

    /// Takes the imported keys that are new in the database. Each comes with whether it must not be there: an
    /// import of a text finds every key of this text.
    pub(crate) fn add(&mut self, database: &Database) -> Vec<(KeyRecord, bool)> {
        let imported = database.imported();
        let new: Vec<_> = imported
            .filter(|key| !self.of.contains_key(&key.id))
            .cloned()
            .collect();
        let added = new.into_iter().map(|key| {
            let text = key.scopes.iter().collect();
            let first = *self.firsts.entry(text).or_insert(key.id);
            self.of.insert(key.id, first);
            let is_other = |other: &KeyRecord| other.id != key.id && other.scopes == key.scopes;
            let is_by_text = !key.hint.0.is_empty();
            let is_wrong = is_by_text && database.imported().any(is_other);
            (key, is_wrong)
        });
        added.collect()
    }
}

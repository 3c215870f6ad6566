//! Random new keys, issued or imported, often with the slot or the digest of another key.

use keyward_core::key::{BatchId, San, Timestamp};
use keyward_crypto::Digest;
use keyward_store::{Expiry, Import, NewToken};

use super::Call;
use super::calls::Calls;
use crate::world::{DAY, HOUR, World, batch, sealed};

impl Calls {
    pub(super) fn issue(&mut self, world: &World) -> Call {
        let slot = self.random.pick(&["a", "b"]).unwrap();
        let mut new = world.plain_key(self.account(), slot);
        match self.random.below(12) {
            0 => new.id = self.key(world).0,
            1 => new.digest = self.key(world).1,
            2..=4 => new.expiry = Expiry::After(HOUR / 30),
            5 => new.expiry = Expiry::After(DAY),
            _ => new.sealed = self.random.chance(50).then(|| sealed(1)),
        }
        self.keys.push((new.id, new.digest));
        Call::Issue(new)
    }

    pub(super) fn new_token(&self, world: &World) -> NewToken {
        let mut new = world.new_token("bot");
        match self.random.below(8) {
            0..=2 => {
                let san = self.random.pick(&["a.example", "b.example"]).unwrap();
                let san = San::new("san", san).expect("it is a name");
                new.digest = Digest::of_san(&san);
                (new.generation, new.san) = (None, Some(san));
            }
            3 => new.expiry = Expiry::After(HOUR / 30),
            4 => new.digest = self.token(world).1,
            _ => {}
        }
        new
    }

    pub(super) fn batch(&self) -> BatchId {
        batch(*self.random.pick(&[1, 2]).unwrap())
    }

    pub(super) fn import(&mut self, world: &World) -> Call {
        let mut keys = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            let slot = self.random.pick(&["a", "b"]).unwrap();
            let mut new = world.imported_key(self.account(), slot);
            if self.random.chance(40) {
                new.digest = self.key(world).1;
            }
            if self.random.chance(30) {
                new.other_digests.push(self.key(world).1);
            }
            if self.random.chance(30) {
                new.create_time = Some(Timestamp::from_micros(1));
            }
            self.keys.push((new.id, new.digest));
            keys.push(new);
        }
        Call::Import(Import {
            batch: self.batch(),
            keys,
            dry_run: self.random.chance(20),
        })
    }
}

//! Random imports, often of keys that a store has.

use keyward_core::key::{BatchId, Timestamp};
use keyward_store::Import;

use super::Call;
use super::calls::Calls;
use crate::world::{World, batch};

impl Calls {
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

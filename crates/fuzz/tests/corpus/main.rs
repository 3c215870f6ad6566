//! Runs every target as an ordinary test: on the files that `fuzz/corpus` holds, on its seeds, and on mutations
//! of both, which are the same in every run. `UPDATE_CORPUS=1` writes the seeds to `fuzz/corpus`.

#![cfg(test)]

use std::fs;
use std::path::Path;

use keyward_fuzz::Target;

mod seeds;

use seeds::Seeds;

/// The number of mutations.
const MUTATIONS: usize = 300;
/// The most bytes that a mutation inserts.
const INSERTED: usize = 8;

macro_rules! replayed {
    ($($target:ident: $seeds:expr,)*) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target), keyward_fuzz::$target::target(), $seeds);
        }
    )*};
}

replayed! {
    key_text: Seeds::new(),
    requests: seeds::requests(),
    near_polls: Seeds::new(),
    http: Seeds::new(),
    cache_entry: seeds::cache_entry(),
    keyring: seeds::keyring(),
    page_token: Seeds::new(),
    settings: Seeds::new(),
    bot_updates: Seeds::new(),
}

fn replay(name: &str, mut target: Target, seeds: Seeds) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        for (seed, bytes) in &seeds {
            fs::write(corpus.join(seed), bytes).unwrap();
        }
    }
    let mut paths: Vec<_> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let files = paths.iter().map(|path| fs::read(path).unwrap());
    let inputs: Vec<_> = seeds.into_values().chain(files).collect();
    for input in &inputs {
        target(input);
    }
    let mut random = Random(1);
    for _ in 0..MUTATIONS {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = &inputs[random.below(inputs.len())];
        for _ in 0..=random.below(4) {
            random.mutate(&mut input, other);
        }
        target(&input);
    }
}

/// A small generator (xorshift), so that a failure is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Changes, inserts or removes some bytes, or takes some from another input.
    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let to = (at + self.below(INSERTED)).min(input.len());
        match self.below(4) {
            0 => {
                for byte in &mut input[at..to] {
                    *byte ^= 1 << (*byte % 8);
                }
            }
            1 => {
                let bytes: Vec<_> = (0..self.below(INSERTED)).map(|_| self.byte()).collect();
                input.splice(at..to, bytes);
            }
            2 => drop(input.drain(at..to)),
            _ => {
                let from = self.below(other.len() + 1);
                input.splice(at..to, other[from..].iter().copied());
            }
        }
    }
}

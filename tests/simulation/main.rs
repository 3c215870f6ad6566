//! Simulates a deployment in virtual time: several instances of the real fence, replication, caches
//! and service, on a store in memory, with calls and faults that one seed decides. Everything runs on
//! one thread, so a seed repeats exactly.
//!
//! `docs/development/testing.md` says how to run more seeds and how to read a failure.

#![cfg(test)]

mod calls;
mod clock;
mod faults;
mod hunt;
mod imports;
mod instance;
mod judge;
mod link;
mod near;
mod run;
mod scenario;
mod shared_cache;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use faults::Fault;
use keyward_testkit::now;
use parking_lot::Mutex;
use run::run;

/// The seeds of a run without a choice, and the variables that choose.
const SEEDS: u64 = 1_000;
const SEEDS_VARIABLE: &str = "KEYWARD_SEEDS";
const SEED_VARIABLE: &str = "KEYWARD_SEED";
/// So many seeds show every fault.
const ENOUGH: usize = 1_000;
/// Seeds that failed once, one in each line, with the reason.
const CORPUS: &str = include_str!("corpus.txt");

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

/// The violations of a seed with its timeline.
fn describe(seed: u64) -> String {
    let outcome = run(seed, true);
    let (timeline, violations) = (outcome.timeline.join("\n"), outcome.violations.join("\n"));
    format!("{timeline}\n\nseed {seed}:\n{violations}\n")
}

/// Runs seeds on all cores and prints how often each action and fault happened.
fn simulate(seeds: &[u64]) {
    let (next, started) = (AtomicUsize::new(0), now());
    let failed: Mutex<Vec<u64>> = Mutex::default();
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.lock().is_empty() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(index) else { break };
                    let outcome = run(*seed, false);
                    for (what, count) in outcome.counts {
                        *counts.lock().entry(what).or_default() += count;
                    }
                    if !outcome.violations.is_empty() {
                        failed.lock().push(*seed);
                    }
                }
            });
        }
    });
    let elapsed = started.elapsed().as_secs_f64();
    let counts = counts.into_inner();
    for (what, count) in &counts {
        println!("{count:>12}  {what}");
    }
    let names = Fault::ALL.iter().map(|fault| fault.name());
    let names = names.chain(link::FAULTS).chain([world::OLD_READ]);
    let names = names.chain(imports::EVENTS);
    let never: Vec<&str> = names.filter(|name| !counts.contains_key(name)).collect();
    let ran = next.load(Ordering::Relaxed).min(seeds.len());
    println!(
        "{ran} seeds in {elapsed:.1} s: {:.0} seeds per second",
        ran as f64 / elapsed
    );
    let failed = failed.into_inner();
    if let Some(first) = failed.iter().min() {
        panic!(
            "{}\nseeds {failed:?} failed; run one with {SEED_VARIABLE}=N",
            describe(*first)
        );
    }
    assert!(
        seeds.len() < ENOUGH || never.is_empty(),
        "these never happened: {never:?}"
    );
}

#[test]
fn the_promise_holds_for_every_seed() {
    if let Some(seed) = number(SEED_VARIABLE) {
        let outcome = run(seed, true);
        println!("{}", outcome.timeline.join("\n"));
        assert!(
            outcome.violations.is_empty(),
            "{}",
            outcome.violations.join("\n")
        );
        return;
    }
    let count = number(SEEDS_VARIABLE).unwrap_or(SEEDS);
    let first = number("KEYWARD_FIRST_SEED").unwrap_or(0);
    simulate(&(first..first + count).collect::<Vec<_>>());
}

#[test]
fn a_seed_that_failed_once_passes() {
    let seed = |line: &str| line.split_whitespace().next()?.parse().ok();
    simulate(&CORPUS.lines().filter_map(seed).collect::<Vec<u64>>());
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..20 {
        let (one, two) = (run(seed, false), run(seed, true));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one.counts, two.counts, "seed {seed}");
    }
}

//! Searches every order of the steps of Keyward's rules for one that breaks the promise.
//!
//! The models take their decisions by the types of `keyward-core`: who is waited for, who is unresponsive,
//! whether an epoch is settled, whether a page fits, whether an entry is admitted. The steps around these
//! decisions are modelled. `crates/core/tests/loom.rs` covers the steps inside the fence.

#![expect(clippy::print_stdout, reason = "the result of this program")]

mod cache;
mod failover;
mod membership;
mod rules;
mod scenarios;
mod search;
#[cfg(test)]
mod tests;
mod time;

use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rules::{Properties, RULES, Rule};
use scenarios::{ALL, Scenario};
use search::Outcome;

const USAGE: &str = "usage: keyward-model [SCENARIO... | --each-rule | --without RULE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_as_claimed = match arguments[..] {
        [] => Some(all_rules_hold(&ALL)),
        ["--each-rule"] => Some(each_rule_is_needed(RULES)),
        ["--without", name] => find(name, RULES, |(rule, ..)| rule).map(without),
        ref names => {
            let scenarios: Option<Vec<_>> = names
                .iter()
                .map(|name| find(name, &ALL, |one| one).copied())
                .collect();
            scenarios.map(|scenarios| all_rules_hold(&scenarios))
        }
    };
    match is_as_claimed {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            println!("{USAGE}\n\nscenarios:");
            ALL.iter().for_each(|scenario| println!("  {scenario:?}"));
            println!("rules:");
            RULES.iter().for_each(|(rule, ..)| println!("  {rule:?}"));
            ExitCode::FAILURE
        }
    }
}

/// The item whose key has this name.
fn find<'a, T, K: Debug>(name: &str, all: &'a [T], key: impl Fn(&T) -> &K) -> Option<&'a T> {
    all.iter().find(|one| format!("{:?}", key(one)) == name)
}

/// Searches the scenarios with every rule. Nothing may break.
fn all_rules_hold(scenarios: &[Scenario]) -> bool {
    all_in_parallel(scenarios, |scenario| {
        let outcome = scenario.search(&[], Properties::NONE);
        print(&format!("{scenario:?}"), &outcome);
        print_traces(&outcome);
        outcome.holds()
    })
}

/// Searches without each rule in turn. What the rule protects must break.
fn each_rule_is_needed(rules: &[(Rule, Scenario, Properties)]) -> bool {
    all_in_parallel(rules, |(rule, scenario, breaks)| {
        let outcome = scenario.search(&[*rule], *breaks);
        print(&format!("without {rule:?}"), &outcome);
        let breaks_as_expected = outcome.breaks_as(*breaks);
        if !breaks_as_expected {
            println!("    expected: {}", breaks.names());
        }
        breaks_as_expected
    })
}

/// Runs `search` for each item, as many at a time as there are cores. Whether it was true for all.
fn all_in_parallel<T: Sync>(items: &[T], search: impl Fn(&T) -> bool + Sync) -> bool {
    let (next, all) = (AtomicUsize::new(0), AtomicBool::new(true));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            all.fetch_and(search(item), Ordering::Relaxed);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    all.into_inner()
}

/// Searches without one rule, and shows what breaks. Whether nothing broke.
fn without((rule, scenario, breaks): &(Rule, Scenario, Properties)) -> bool {
    let outcome = scenario.search(&[*rule], *breaks);
    print(&format!("{scenario:?} without {rule:?}"), &outcome);
    print_traces(&outcome);
    outcome.holds()
}

fn print(name: &str, outcome: &Outcome) {
    let traces = outcome.traces.iter();
    let broken = traces.map(|(broken, trace)| format!("{} in {}", broken.names(), trace.len()));
    let result = match (outcome.traces.is_empty(), outcome.is_complete) {
        (true, true) => "holds".to_owned(),
        (true, false) => "nothing found, but not all was searched".to_owned(),
        (false, _) => format!("broken: {} steps", broken.collect::<Vec<_>>().join(", ")),
    };
    println!(
        "{name:<44} {:>9} states {:>3} deep {:>3} kinds of steps {:>6.1} s  {result}",
        outcome.states,
        outcome.depth,
        outcome.kinds_of_steps,
        outcome.time.as_secs_f32(),
    );
}

fn print_traces(outcome: &Outcome) {
    for (broken, trace) in &outcome.traces {
        println!("\n  {} breaks:", broken.names());
        for (number, step) in (1..).zip(trace) {
            println!("  {number:>4}  {step}");
        }
    }
}

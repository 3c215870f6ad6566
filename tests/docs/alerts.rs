//! The alerts of `deploy/prometheus` and the panels of `deploy/grafana` name metrics that exist, each alert
//! is tested, and the guide lists them. `UPDATE_DOCS=1` writes the list.

use std::collections::BTreeSet;

use keyward_ops::Metrics;
use regex::Regex;

use crate::read;
use crate::readme::{settle, with_table};

const RULES: &str = "deploy/prometheus/keyward.rules.yml";
const PAGE: &str = "docs/guide/monitor.md";

#[test]
fn the_guide_lists_the_alerts() {
    let rules = read(RULES);
    let value = |rule: &str, name: &str| {
        let (_, rest) = rule.split_once(&format!(" {name}: ")).unwrap();
        rest.lines().next().unwrap().trim_matches('"').to_owned()
    };
    let mut table = String::from("| alert | severity | it means |\n|---|---|---|\n");
    let tests = read("deploy/prometheus/keyward.test.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let tested = Regex::new(&format!("alertname: {name}\\b")).unwrap();
        assert_eq!(tested.find_iter(&tests).count(), 2, "{name} is tested");
        let of = |name| value(rule, name);
        let (page, severity, summary) = (of("runbook"), of("severity"), of("summary"));
        table += &format!("| [{name}]({page}) | {severity} | {summary} |\n");
    }
    settle(PAGE, &with_table(&read(PAGE), "alerts", &table));
}

#[test]
fn alerts_and_panels_name_metrics_that_exist() {
    let table = Metrics::table();
    let known: BTreeSet<_> = table
        .lines()
        .filter_map(|row| row.split('`').nth(1))
        .collect();
    let name = Regex::new("keyward_[a-z0-9_]+").unwrap();
    for file in [
        RULES,
        "deploy/prometheus/keyward.test.yml",
        "deploy/grafana/keyward.json",
    ] {
        let text = read(file);
        for name in name.find_iter(&text).map(|found| found.as_str()) {
            let base = ["_bucket", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            assert!(known.contains(base.unwrap_or(name)), "{file} names {name}");
        }
    }
}

//! One frame of `keyward top`, with the words of the status page.

use std::time::Duration;

use prost_types::Timestamp;
use serde_json::{Value, json};

use super::Look;
use crate::cli::render::{table, time};
use keyward_ops::samples::Samples;

/// What is shown instead of numbers.
pub(super) fn unreachable(endpoint: &str, why: impl std::fmt::Display) -> String {
    format!("{endpoint} does not answer: {why}")
}

/// The numbers of `now`, and the rates since `before`.
pub(super) fn of(endpoint: &str, now: &Look, before: Option<&Look>) -> String {
    let status = &now.status;
    let state = match status["state"].as_str() {
        Some("ok") => "fresh: this instance knows every change",
        other => other.unwrap_or("unknown"),
    };
    let version = status["version"].as_str().unwrap_or_default();
    let mut lines = vec![
        ("keyward", format!("{version} on {endpoint}")),
        ("state", state.to_owned()),
        (
            "freshness",
            format!(
                "{} of {}",
                seconds(&status["age"]),
                seconds(&status["max_staleness"])
            ),
        ),
    ];
    if let Some(before) = before {
        lines.extend(rates(now, before));
    }
    lines.push(("redis", redis(now)));
    lines.push(("near", near_caches(now)));
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name:<10} {value}\n"));
    let mut frame: String = lines.collect();
    frame.push('\n');
    frame += &instances(status);
    frame.push('\n');
    frame += &webhooks(&now.samples);
    frame.push('\n');
    frame += &revokes(status);
    frame
}

/// The numbers that need two moments.
fn rates(now: &Look, before: &Look) -> [(&'static str, String); 4] {
    let passed = (now.at - before.at)
        .max(Duration::from_millis(1))
        .as_secs_f64();
    let counted = |name: &str, labels: &[(&str, &str)]| {
        let counted = now.samples.sum(name, labels) - before.samples.sum(name, labels);
        // An instance that was restarted counts from 0.
        counted.max(0.0)
    };
    let rate = |name: &str, labels: &[(&str, &str)]| number(counted(name, labels) / passed);
    let verify = format!(
        "{}/s, VALID {}/s",
        rate("keyward_verify_total", &[]),
        rate("keyward_verify_total", &[("verdict", "VALID")])
    );
    let of = |q| {
        now.samples
            .quantile(&before.samples, "keyward_revoke_wait_seconds", q)
    };
    let revoke = match (of(0.5), of(0.99)) {
        (Some(half), Some(most)) => {
            format!("half wait ≤ {}, 99 % ≤ {}", duration(half), duration(most))
        }
        _ => "no revocation".to_owned(),
    };
    let calls = counted("keyward_rpc_total", &[]);
    let failed =
        number((calls - counted("keyward_rpc_total", &[("code", "OK")])).max(0.0) / passed);
    let looked = counted("keyward_cache_total", &[("cache", "key")]);
    let hits = counted(
        "keyward_cache_total",
        &[("cache", "key"), ("outcome", "hit")],
    );
    let memory = match looked > 0.0 {
        true => format!("{:.1} % of look-ups", 100.0 * hits / looked),
        false => "–".to_owned(),
    };
    [
        ("verify", verify),
        ("revoke", revoke),
        ("failed", format!("{failed}/s")),
        ("memory", memory),
    ]
}

fn redis(now: &Look) -> String {
    if now.status["has_redis"] != true {
        return "not used".to_owned();
    }
    let breaker = now.samples.sum("keyward_l2_breaker", &[]);
    let states = [(0.5, "closed"), (1.5, "half-open"), (f64::INFINITY, "open")];
    let state = states.iter().find(|(below, _)| breaker < *below);
    let of = |outcome| now.samples.sum("keyward_l2_total", &[("outcome", outcome)]);
    format!(
        "breaker {}; {} hits, {} misses, {} without an answer",
        state.map_or("open", |(_, name)| name),
        number(of("hit")),
        number(of("miss")),
        number(of("failed") + of("skipped"))
    )
}

fn near_caches(now: &Look) -> String {
    let of = |end| {
        now.samples
            .sum("keyward_near_cache_streams_total", &[("end", end)])
    };
    format!(
        "{} near-caches, {} streams broken, {} refused",
        number(now.samples.sum("keyward_near_caches", &[])),
        number(of("broken")),
        number(of("refused"))
    )
}

fn instances(status: &Value) -> String {
    let rows = rows(&status["instances"], |it| {
        let name = it["name"].as_str().unwrap_or_default();
        let heard = match it["silent_for"].as_f64() {
            Some(silent) => format!("{} ago", duration(silent)),
            None => "–".to_owned(),
        };
        json!({
            "instance": format!("{name}{}", if it["is_own"] == true { " (this one)" } else { "" }),
            "known for": seconds(&it["known_for"]),
            "heard": heard,
            "acknowledged": it["acked"],
            "a Revoke waits at most": seconds(&it["bound"]),
        })
    });
    let columns = [
        "instance",
        "known for",
        "heard",
        "acknowledged",
        "a Revoke waits at most",
    ];
    table(&columns, &rows)
}

fn webhooks(samples: &Samples) -> String {
    let mut names: Vec<_> = samples
        .labels("keyward_webhook_waiting", "webhook")
        .collect();
    names.sort_unstable();
    let rows: Vec<_> = names.iter().map(|name| webhook(samples, name)).collect();
    let columns = [
        "webhook",
        "waiting",
        "oldest",
        "dead",
        "failed attempts",
        "what to do",
    ];
    match rows.is_empty() {
        true => "no webhook in the settings of this instance\n".to_owned(),
        false => table(&columns, &rows),
    }
}

fn webhook(samples: &Samples, name: &str) -> Value {
    let of = |metric: &str| {
        let metric = format!("keyward_webhook_{metric}");
        samples.sum(&metric, &[("webhook", name)])
    };
    let failed = |outcome| {
        let labels = [("webhook", name), ("outcome", outcome)];
        samples.sum("keyward_webhook_attempts_total", &labels)
    };
    let (waiting, oldest, dead) = (of("waiting"), of("oldest_age_seconds"), of("dead"));
    let advice = if of("gone") > 0.0 {
        format!("its receiver answered 410: repair it, then run keyward webhook replay {name}")
    } else if dead > 0.0 {
        format!("repair its receiver, then run keyward webhook replay {name}")
    } else if waiting > 0.0 && oldest >= 60.0 {
        format!("see what its receiver answers: keyward webhook test {name}")
    } else {
        "nothing".to_owned()
    };
    let whole = |count: f64| format!("{count:.0}");
    json!({
        "webhook": name,
        "waiting": whole(waiting),
        "oldest": if waiting > 0.0 { duration(oldest) } else { "–".to_owned() },
        "dead": whole(dead),
        "failed attempts": whole(failed("failed") + failed("dead")),
        "what to do": advice,
    })
}

fn revokes(status: &Value) -> String {
    let rows = rows(&status["revokes"], |it| {
        let answered = it["time"].as_i64().map(|millis| {
            time(&Timestamp {
                seconds: millis.div_euclid(1_000),
                nanos: 0,
            })
        });
        json!({
            "revoked key": it["key_id"].as_str().unwrap_or("–"),
            "keys": it["count"],
            "answered": answered,
            "waited": seconds(&it["waited"]),
            "confirmed": it["confirmed_instances"],
            "waited out": it["waited_out_instances"],
        })
    });
    let columns = [
        "revoked key",
        "keys",
        "answered",
        "waited",
        "confirmed",
        "waited out",
    ];
    match rows.is_empty() {
        true => "no revocation since the start\n".to_owned(),
        false => table(&columns, &rows),
    }
}

fn rows(list: &Value, row: impl Fn(&Value) -> Value) -> Vec<Value> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), duration)
}

/// A time in milliseconds, seconds or minutes.
fn duration(seconds: f64) -> String {
    match seconds {
        0.0..1.0 => format!("{} ms", number(seconds * 1_000.0)),
        1.0..120.0 => format!("{} s", number(seconds)),
        _ if seconds.is_finite() => format!("{:.0} min", seconds / 60.0),
        _ => "more".to_owned(),
    }
}

/// Three digits, and all of those before the point; 0 is only that.
fn number(number: f64) -> String {
    let digits = match number.abs() {
        0.0 => 0,
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_say_what_to_do() {
        let of = |waiting, age, dead, gone| {
            let text = format!(
                "keyward_webhook_waiting{{webhook=\"b\"}} {waiting}\n\
                 keyward_webhook_oldest_age_seconds{{webhook=\"b\"}} {age}\n\
                 keyward_webhook_dead{{webhook=\"b\"}} {dead}\n\
                 keyward_webhook_gone{{webhook=\"b\"}} {gone}\n\
                 keyward_webhook_waiting{{webhook=\"a\"}} 0\n\
                 keyward_webhook_attempts_total{{webhook=\"b\",outcome=\"failed\"}} 4\n\
                 keyward_webhook_attempts_total{{webhook=\"b\",outcome=\"dead\"}} 1\n\
                 keyward_webhook_attempts_total{{webhook=\"b\",outcome=\"delivered\"}} 9\n"
            );
            let shown = webhooks(&Samples::read(&text));
            let lines: Vec<_> = shown.lines().collect();
            assert!(lines[1].starts_with("a ") && lines[1].ends_with(" nothing"));
            lines[2].split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(0, 0, 0, 0), "b 0 – 0 5 nothing");
        assert_eq!(of(3, 59, 0, 0), "b 3 59.0 s 0 5 nothing");
        let test = "see what its receiver answers: keyward webhook test b";
        assert_eq!(of(3, 60, 0, 0), format!("b 3 60.0 s 0 5 {test}"));
        let replay = "repair its receiver, then run keyward webhook replay b";
        assert_eq!(of(3, 90, 7, 0), format!("b 3 90.0 s 7 5 {replay}"));
        let gone = "its receiver answered 410: repair it, then run keyward webhook replay b";
        assert_eq!(of(3, 90, 7, 1), format!("b 3 90.0 s 7 5 {gone}"));
        let none = webhooks(&Samples::read(""));
        assert_eq!(none, "no webhook in the settings of this instance\n");
    }

    #[test]
    fn numbers_have_three_digits_and_times_a_unit() {
        for (value, shown) in [
            (0.0, "0"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1234.5, "1234"),
        ] {
            assert_eq!(number(value), shown);
        }
        for (value, shown) in [
            (0.0123, "12.3 ms"),
            (2.0, "2.00 s"),
            (600.0, "10 min"),
            (f64::INFINITY, "more"),
        ] {
            assert_eq!(duration(value), shown);
        }
    }
}

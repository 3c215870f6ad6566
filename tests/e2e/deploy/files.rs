//! What compose.yaml, the Dockerfile and the sample settings say, without starting anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use keyward::config::{AgentSettings, Inputs, Source, Store, TABLE, load, load_agent};
use keyward_ops::settings::Schema as _;
use keyward_testkit::Compose;
use serde_json::Value;

use super::repository;

fn read(name: &str) -> String {
    let path = repository().join("deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compose() -> Compose {
    let variables = BTreeMap::from([("KEYWARD_USER".to_owned(), "1000:1000".to_owned())]);
    Compose::read(&read("compose.yaml"), &variables)
}

#[test]
fn every_service_is_hardened() {
    let compose = compose();
    assert_eq!(compose.services().len(), 9);
    for (name, service) in compose.services() {
        assert_eq!(service["user"], "1000:1000", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], Value::from(vec!["ALL"]), "{name}");
        let options = service["security_opt"].as_array().unwrap();
        assert!(options.contains(&"no-new-privileges:true".into()), "{name}");
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(
            !limits["memory"].is_null() && !limits["cpus"].is_null(),
            "{name}"
        );
        let restart = service["restart"].as_str().unwrap();
        let once = ["init", "bot-token"].contains(&name.as_str());
        assert_eq!(
            restart,
            if once { "no" } else { "unless-stopped" },
            "{name}"
        );
        assert!(once || !service["healthcheck"].is_null(), "{name}");
        for never in ["privileged", "network_mode", "pid", "cap_add", "env_file"] {
            assert!(service[never].is_null(), "{name}: {never}");
        }
        let image = service["image"].as_str().unwrap();
        let version = image.split_once(':').expect("an image has a version").1;
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{image}");
        // Only the balancer is reached from elsewhere.
        assert_eq!(service["ports"].is_null(), name != "balancer", "{name}");
    }
}

#[test]
fn each_image_of_ours_is_built_by_one_service() {
    let compose = compose();
    let services = compose.services().values();
    let built = services.filter(|service| !service["build"].is_null());
    let mut images: Vec<_> = built.map(|service| &service["image"]).collect();
    images.sort_by_key(|image| image.to_string());
    // By several at once, all but the first would fail.
    assert_eq!(images, ["keyward-bot:0.1.0", "keyward:0.1.0"]);
}

#[test]
fn the_bot_reaches_the_balancer_and_nothing_behind_it() {
    let compose = compose();
    let networks = |service: &str| -> Vec<String> {
        let all = compose.services()[service]["networks"].as_array();
        let all = all.unwrap().iter();
        all.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(networks("bot"), ["front", "outside"]);
    for service in compose.services().keys() {
        let shared = networks(service).contains(&"front".to_owned());
        let expected = ["balancer", "bot", "bot-token"].contains(&service.as_str());
        assert_eq!(shared, expected, "{service}");
    }
}

#[test]
fn no_secret_stands_in_a_variable_or_a_command() {
    let compose = compose();
    let files: BTreeMap<_, _> = compose.secret_files().into_iter().collect();
    for (name, service) in compose.services() {
        let variables = service["environment"].as_object();
        for (variable, value) in variables.into_iter().flatten() {
            let secret = ["PASSWORD", "TOKEN", "KEY"]
                .iter()
                .any(|w| variable.ends_with(w) || variable.ends_with(&format!("{w}_FILE")));
            let value = value.as_str().unwrap();
            assert!(!secret || value.starts_with('/'), "{name}: {variable}");
            assert!(!value.contains('@'), "{name}: {variable}");
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            assert!(
                files.contains_key(secret.as_str().unwrap()),
                "{name}: {secret}"
            );
        }
    }
    for (name, file) in files {
        assert_eq!(file, format!("./secrets/{name}"));
    }
    let ignored = fs::read_to_string(repository().join(".gitignore")).unwrap();
    for directory in ["/deploy/secrets/", "/deploy/state/", "/deploy/.env"] {
        assert!(ignored.lines().any(|line| line == directory));
    }
}

#[test]
fn the_images_have_no_shell_and_are_built_as_the_lock_says() {
    let text = read("Dockerfile");
    let stages: Vec<_> = text.lines().filter(|l| l.starts_with("FROM ")).collect();
    let rust = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let version = rust.split('"').nth(1).unwrap();
    assert_eq!(
        stages,
        [
            "FROM ${RUST_IMAGE} AS build",
            "FROM scratch AS programs",
            "FROM scratch AS keyward",
            "FROM scratch AS keyward-bot",
        ]
    );
    assert!(text.contains(&format!("\nARG RUST_IMAGE=rust:{version}-slim-bookworm\n")));
    let release = repository().join(".github/workflows/release.yml");
    let release = fs::read_to_string(release).unwrap();
    assert!(release.contains(&format!("\n  RUST_IMAGE: rust:{version}-slim-bookworm\n")));
    for label in [
        "title", "licenses", "version", "revision", "created", "source",
    ] {
        let label = format!(" org.opencontainers.image.{label}=");
        assert_eq!(text.matches(&label).count(), 2, "{label}");
    }
    assert!(text.contains(&format!("RUSTUP_TOOLCHAIN={version}\n")));
    assert!(text.contains("cargo build --locked --release"));
    assert_eq!(text.matches("\nUSER 10001:10001\n").count(), 2);
    // Nothing gets in that is not named.
    let ignore = fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    for line in lines {
        let named = line
            .strip_prefix('!')
            .is_some_and(|name| repository().join(name).exists() && !name.contains("secret"));
        assert!(named || line == "**/target", "{line}");
    }
}

#[test]
fn the_sample_settings_are_right_and_name_every_setting() {
    let inputs = Inputs {
        config: Some(repository().join("deploy/keyward.toml")),
        ..Inputs::default()
    };
    let effective = load(inputs).unwrap();
    let settings = &effective.settings;
    assert!(matches!(settings.store, Store::Postgres(_)));
    assert!(settings.tls().is_some() && settings.redis.is_some() && !settings.insecure);
    let given = effective
        .entries
        .iter()
        .filter(|e| e.source != Source::Default);
    assert!(given.count() >= 9);
    names_all("keyward.toml", TABLE.iter().map(|setting| setting.name));
}

#[test]
fn the_sample_settings_of_an_agent_are_right_and_name_every_setting() {
    let token_file = ("KEYWARD_TOKEN_FILE".into(), "/token".into());
    let inputs = Inputs {
        config: Some(repository().join("deploy/keyward-agent.toml")),
        environment: vec![token_file],
        ..Inputs::default()
    };
    let settings = load_agent(inputs).unwrap();
    assert_eq!(settings.socket_mode, 0o660);
    assert!(settings.http_listen.is_some() && !settings.insecure);
    let names = AgentSettings::TABLE.iter().map(|setting| setting.name);
    names_all("keyward-agent.toml", names);
}

/// Asserts that a sample has a line for each of these settings.
fn names_all(sample: &str, names: impl Iterator<Item = &'static str>) {
    let text = read(sample);
    for name in names {
        let named = |line: &str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{name} = "))
        };
        assert!(text.lines().any(named), "{name}");
    }
}

/// What is copied into an image is what the program is linked to, and it runs there.
#[test]
fn the_root_of_an_image_holds_all_that_the_program_needs() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    let binary = PathBuf::from(crate::BINARY);
    for program in ["keyward", "keyward-bot"] {
        // What a program is does not matter to the layout.
        std::os::unix::fs::symlink(&binary, from.join(program)).unwrap();
    }
    let made = std::process::Command::new(repository().join("deploy/image.sh"))
        .args([&from, &directory.path().join("image")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let root = directory.path().join("image/keyward");
    let library = std::process::Command::new("find")
        .arg(&root)
        .args(["-name", "libc.so.6"])
        .output()
        .unwrap();
    assert!(!library.stdout.is_empty());
    assert!(root.join("etc/ssl/certs/ca-certificates.crt").exists());
    assert!(!root.join("bin").exists() && !root.join("usr/bin").exists());
    // In a root of its own, where the tests may make one.
    if rustix::process::geteuid().is_root() {
        let said = std::process::Command::new("chroot")
            .args(["--userspec=10001:10001"])
            .arg(&root)
            .args(["/usr/local/bin/keyward", "--version"])
            .output()
            .unwrap();
        let version = format!("keyward {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8_lossy(&said.stdout), version, "{said:?}");
    }
}

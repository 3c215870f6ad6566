//! A cluster starts, stops and kills the named instances with the given settings. A script replaces
//! Keyward and records its arguments.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use keyward_testkit::{Cluster, Options, Postgres, wait_until};

const SCRIPT: &str = r#"#!/bin/sh
log="${0%/*}/log"
case "$1" in
init)
    echo "$*|$KEYWARD_STORE|$KEYWARD_KEYRING" >> "$log"
    mkdir "$KEYWARD_DATA_DIR"
    echo the-token > "$KEYWARD_DATA_DIR/admin.token"
    ;;
serve)
    trap 'exit "$EXIT_STATUS"' TERM
    echo "$*|$KEYWARD_STORE|$KEYWARD_KEYRING|$KEYWARD_MAX_STALENESS" >> "$log"
    echo "keyward is ready: gRPC on 127.0.0.1:1, JSON off, metrics and probes on 127.0.0.1:2" >&2
    while :; do sleep 0.05; done
    ;;
esac
"#;

fn log(directory: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(directory.join("log")).unwrap();
    let fields = |line: &str| line.split('|').map(str::to_owned).collect();
    text.lines().map(fields).collect()
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn instances_come_and_go_one_by_one_each_behind_its_own_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("keyward");
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    let options = Options {
        max_staleness: Duration::from_secs(3),
        proxies: true,
        variables: vec![("EXIT_STATUS", "0".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::start(script.to_str().unwrap(), 2, options);
    let lines = log(directory.path());
    let keyring = cluster.keyring().to_str().unwrap().to_owned();
    let init = [
        "init --service-role keyward_service",
        &cluster.postgres.owner_url(),
        &keyring,
    ];
    assert_eq!(lines[0], init);
    assert_eq!(lines.len(), 3);
    assert_eq!(cluster.token(), "the-token");
    assert_eq!(cluster.running(), [0, 1]);
    assert_ne!(cluster.proxy(0).address(), cluster.proxy(1).address());

    let third = cluster.add();
    assert_eq!((third, cluster.running()), (2, vec![0, 1, 2]));
    let lines = log(directory.path());
    let mut stores = Vec::new();
    for line in &lines[1..] {
        let [arguments, store, ring, staleness] = line.as_slice() else {
            panic!("{line:?}");
        };
        assert!(
            arguments.starts_with("serve --listen 127.0.0.1:0 "),
            "{arguments}"
        );
        assert_eq!((ring, staleness.as_str()), (&keyring, "3000ms"));
        // The instance reaches the server through its proxy.
        drop(Postgres::connect(store).await);
        stores.push(store.clone());
    }
    for number in 0..3 {
        let address = cluster.proxy(number).address().to_string();
        let own = stores.iter().filter(|store| store.contains(&address));
        assert_eq!(own.count(), 1, "{stores:?}");
    }

    let ids = [0, 1, 2].map(|number| cluster.instance(number).id());
    cluster.kill(1);
    cluster.stop(0);
    assert_eq!(cluster.running(), [2]);
    assert_eq!(ids.map(is_running), [false, false, true]);
    let fourth = cluster.add();
    assert_eq!((fourth, cluster.running()), (3, vec![2, 3]));
    let last = cluster.instance(fourth).id();
    let place = cluster.directory().to_owned();
    drop(cluster);
    wait_until("all are gone", Duration::from_secs(30), || {
        !is_running(ids[2]) && !is_running(last) && !place.exists()
    });
}

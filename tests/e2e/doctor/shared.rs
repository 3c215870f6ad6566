//! Faults of Postgres and Redis, and of the instance itself.

use std::fs;

use keyward_testkit::{
    Cluster, Options, PATIENCE, Redis, RedisOptions, User, eventually, http_get,
};

use super::Findings;
use crate::BINARY;

/// A server that keeps commits. Others of the tests do without.
fn durable() -> Options {
    Options {
        postgres: vec![("fsync", "on"), ("full_page_writes", "on")],
        ..Options::default()
    }
}

/// The doctor on a shared store, with these variables.
fn shared(cluster: &Cluster, store: &str, variables: &[(&str, &str)]) -> Findings {
    let mut command = cluster.operator();
    command
        .args(["doctor", "--output", "json"])
        .env("KEYWARD_STORE", store)
        .env("KEYWARD_HTTP_LISTEN", "none")
        .envs(variables.iter().copied());
    Findings::of(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_shared_store_is_found() {
    let mut cluster = Cluster::start(BINARY, 1, durable());
    let store = cluster.postgres.service_url();
    let examine = || shared(&cluster, &store, &[]);
    let found = examine();
    found.are_fine();
    found.has(
        "ok",
        "store",
        &["a primary", "keyward_service has the rights"],
    );
    found.has("ok", "keyring", &["generation-1 (active)"]);
    let http = cluster.instance(0).http.to_string();
    let found = shared(&cluster, &store, &[("KEYWARD_HTTP_LISTEN", &http)]);
    found
        .are_fine()
        .has("ok", "service", &["is fresh and serves"]);

    let owner = cluster.postgres.owner_url();
    let found = shared(&cluster, &owner, &[]);
    found.only(
        "warning",
        "store",
        &["keyward_owner owns the tables", "--service-role"],
    );

    let role = User::Service.name();
    for (right, named) in [
        ("SELECT ON audit", "SELECT ON audit"),
        ("INSERT ON instances", "INSERT ON instances"),
        (
            "EXECUTE ON FUNCTION trim_log(interval)",
            "EXECUTE ON trim_log(interval)",
        ),
        ("UPDATE (scopes) ON api_keys", "UPDATE (scopes) ON api_keys"),
    ] {
        cluster
            .postgres
            .execute(&format!("REVOKE {right} FROM {role}"))
            .await;
        let found = examine();
        let remedy = "keyward migrate --service-role ROLE";
        found.only(
            "error",
            "store",
            &[&format!("lacks rights: {named}. "), remedy],
        );
        cluster
            .postgres
            .execute(&format!("GRANT {right} TO {role}"))
            .await;
    }
    cluster
        .postgres
        .execute("REVOKE SELECT ON _sqlx_migrations FROM keyward_service")
        .await;
    examine().only(
        "error",
        "store",
        &["permission denied", "keyward migrate --service-role"],
    );
    cluster
        .postgres
        .execute("GRANT SELECT ON _sqlx_migrations TO keyward_service")
        .await;

    let older =
        "CREATE TABLE saved AS SELECT * FROM _sqlx_migrations; DELETE FROM _sqlx_migrations";
    cluster.postgres.execute(older).await;
    examine().only("error", "store", &["lacks schema 1", "`keyward migrate`"]);
    let newer = "INSERT INTO _sqlx_migrations SELECT * FROM saved";
    cluster.postgres.execute(newer).await;

    let absent = cluster.directory().join("absent").display().to_string();
    let found = shared(&cluster, &store, &[("KEYWARD_KEYRING", &absent)]);
    found.only(
        "error",
        "keyring",
        &["there is no keyring in", "restore it"],
    );
    let bare = cluster.postgres.fresh_database("bare").await;
    let found = shared(&cluster, &bare.owner_url(), &[]);
    found.only("error", "store", &["`keyward init` for a new database"]);
    let nobody = "postgres://keyward_service:service-secret@127.0.0.1:1/keyward";
    let found = shared(&cluster, nobody, &[]);
    found.only(
        "error",
        "store",
        &["no Postgres primary answers", "127.0.0.1:1"],
    );

    // The doctor has registered nothing.
    let instances = "SELECT (SELECT count(*) FROM instances) = 1";
    cluster.postgres.wait_for(instances).await;

    // An instance would raise the floor of the store's time, which never falls.
    cluster.stop(0);
    for (offset, texts) in [
        ("10 years", ["ahead of this machine's", "the runbook"]),
        ("-10 years", ["ahead of the server's clock", "the runbook"]),
    ] {
        cluster.postgres.clock_ahead(offset).await;
        shared(&cluster, &store, &[]).only("warning", "clock", &texts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_redis_is_found() {
    let cluster = Cluster::start(BINARY, 0, durable());
    let store = cluster.postgres.service_url();
    let examine = |url: &str| shared(&cluster, &store, &[("KEYWARD_REDIS", url)]);
    let with = |lines: &[&str], acl: Option<&str>| {
        Redis::with(RedisOptions {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            acl: acl.map(str::to_owned),
            ..RedisOptions::default()
        })
    };
    let cache = ["maxmemory 8mb", "maxmemory-policy allkeys-lru"];
    let redis = with(&cache, None);
    let found = examine(&redis.url());
    found.are_fine().has("ok", "redis", &["grants every call"]);
    assert_eq!(redis.command(&["DBSIZE"]), "0");
    redis.kill();
    examine(&redis.url()).only("warning", "redis", &["cannot be used"]);

    let redis = with(&["maxmemory 8mb", "maxmemory-policy noeviction"], None);
    examine(&redis.url()).only(
        "warning",
        "redis",
        &["CONFIG SET maxmemory-policy allkeys-lru"],
    );
    let redis = with(&["maxmemory 0", "maxmemory-policy allkeys-lru"], None);
    examine(&redis.url()).only("warning", "redis", &["CONFIG SET maxmemory 1gb"]);

    let acl = include_str!("../../../deploy/redis.acl").replace("CHANGE-ME", "redis-secret");
    let acl: Vec<_> = acl
        .lines()
        .filter(|line| line.starts_with("user"))
        .collect();
    let redis = with(&cache, Some(&acl.join("\n")));
    let url = redis.url();
    examine(&url).only("warning", "redis", &["NOAUTH", "redis_password_file"]);
    let login = |login: &str| url.replace("redis://", &format!("redis://{login}@"));
    examine(&login("keyward:wrong-secret")).only(
        "warning",
        "redis",
        &["WRONGPASS", "check the user"],
    );
    examine(&login("keyward:redis-secret")).are_fine();
    let acl = acl.join("\n").replace("+publish ", "");
    let redis = with(&cache, Some(&acl));
    let url = redis
        .url()
        .replace("redis://", "redis://keyward:redis-secret@");
    examine(&url).only("warning", "redis", &["NOPERM", "deploy/redis.acl"]);

    fs::remove_file(cluster.keyring().join("cache-1")).unwrap();
    let redis = with(&cache, None);
    let found = examine(&redis.url());
    found.only(
        "error",
        "redis",
        &["no file cache-<number>", "keyward keyring add cache"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_serve_is_an_error() {
    let mut cluster = Cluster::start(BINARY, 1, Options::default());
    let http = cluster.instance(0).http.to_string();
    let url = cluster.postgres.service_url();
    let found = shared(&cluster, &url, &[]);
    found.only("error", "store", &["loses commits", "RESET fsync"]);
    cluster.postgres.stop();
    eventually("the instance is not fresh", PATIENCE, async || {
        http_get(cluster.instance(0).http, "/readyz")
            .await
            .contains("not fresh")
    })
    .await;
    let found = shared(&cluster, &url, &[("KEYWARD_HTTP_LISTEN", &http)]);
    found.has("error", "store", &["no Postgres primary answers"]);
    found.has("error", "service", &["does not serve: not fresh"]);
    found.has(
        "ok",
        "keyring",
        &["is complete; its store was not examined"],
    );
    cluster.kill(0);
}

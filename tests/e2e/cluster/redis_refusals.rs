//! What Redis refuses is logged in its own words, with what to do; a password in a file can change.

use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Process, Redis, RedisOptions, eventually, http_get,
};

use super::{BINARY, issued};

fn redis(lines: &[&str], acl: Option<&str>) -> Redis {
    Redis::with(RedisOptions {
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        acl: acl.map(str::to_owned),
        ..RedisOptions::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_the_servers_words_and_the_remedy() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let few = "user default on nopass ~* &* -@all +ping +hello +subscribe";
    let no_channel = "user default on nopass ~* resetchannels +@all";
    let right = "user default on >right ~* &* +@all";
    for (number, (redis, login, words)) in [
        (
            redis(&[], Some(right)),
            ":hunter2@",
            [
                "redis cannot be used",
                "WRONGPASS invalid username-password",
                "check the user",
            ],
        ),
        (
            redis(&[], Some(few)),
            "",
            [
                "redis refuses calls: NOPERM",
                "has no permissions",
                "deploy/redis.acl",
            ],
        ),
        (
            redis(&[], Some(no_channel)),
            "",
            [
                "redis refuses the subscription to change notices: NOPERM",
                "",
                "deploy/redis.acl",
            ],
        ),
        (
            redis(&["maxmemory 1", "maxmemory-policy noeviction"], None),
            "",
            [
                "redis refuses calls: OOM command not allowed",
                "",
                "raise maxmemory",
            ],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let data = cluster.directory().join(format!("serve-{number}"));
        let mut command = cluster.command(&data, &cluster.postgres.service_url());
        command.env(
            "KEYWARD_REDIS",
            format!("redis://{login}{}", redis.address()),
        );
        let process = Process::start(command, &data);
        let client = Client::new(process.grpc, Some(cluster.token())).await;
        eventually(words[0], PATIENCE, async || {
            // A Verify reads and writes an entry.
            let (_, text) = issued(&client).await;
            client.verify(&text).await.unwrap();
            words.iter().all(|words| process.output().contains(words))
        })
        .await;
        let said = process.output();
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_can_change_without_a_restart() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let redis = redis(&[], Some("user kw on >first ~* &* +@all"));
    let data = cluster.directory().join("serve");
    let file = cluster.directory().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let mut command = cluster.command(&data, &cluster.postgres.service_url());
    command
        .env("KEYWARD_REDIS", format!("redis://kw@{}", redis.address()))
        .env("KEYWARD_REDIS_PASSWORD_FILE", &file);
    let process = Process::start(command, &data);
    let connected = async || {
        let metrics = http_get(process.http, "/metrics").await;
        metrics.contains("\nkeyward_l2_breaker 0\n")
    };
    eventually("the first password is used", PATIENCE, connected).await;
    redis.command(&["ACL", "SETUSER", "kw", "resetpass", ">second"]);
    redis.command(&["CLIENT", "KILL", "USER", "kw"]);
    eventually("the first password is refused", PATIENCE, async || {
        process.output().contains("WRONGPASS")
    })
    .await;
    std::fs::write(&file, "second").unwrap();
    eventually("the second password is used", PATIENCE, connected).await;
}

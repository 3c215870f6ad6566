//! Examines Redis for an operator: whether it grants each kind of call, and whether it is set up as a cache.

use redis::RedisResult;
use tokio::time::timeout;

use super::PREFIX;
use super::link::{CONNECT, probe};
use super::servers::{Address, Connection, Servers};

/// How long the entry of the examination stays if it cannot be deleted, in seconds.
const LIFETIME: u64 = 10;

/// Connects, and makes each kind of call that an instance makes, on names that no instance uses. Returns
/// what an operator should change.
///
/// # Errors
///
/// An instance could not use Redis: why, and what to do.
pub async fn examine(address: Address) -> Result<Vec<String>, String> {
    let servers = Servers::new(address).map_err(|error| error.to_string())?;
    let connection = probe(&servers).await?;
    match timeout(CONNECT, try_calls(connection)).await {
        Ok(Ok(info)) => Ok(info.map(|info| advice(&info)).unwrap_or_default()),
        Ok(Err(error)) => Err(servers.explain(&error)),
        Err(_) => Err(format!("the calls took longer than {CONNECT:?}")),
    }
}

/// Returns what the server says of itself.
async fn try_calls(mut connection: Connection) -> RedisResult<Option<String>> {
    let name = || vec![format!("{PREFIX}doctor")];
    let entry = (format!("{PREFIX}doctor"), b"1".to_vec(), LIFETIME);
    connection.clone().write(&[entry]).await?;
    connection.clone().read(name()).await?;
    connection.clone().delete(name()).await?;
    let channel = format!("{PREFIX}doctor");
    connection.subscribe(&channel).await?;
    connection.clone().publish(&channel, b"1").await?;
    connection.info().await
}

/// What is not set up as for a cache, and the command that mends it.
fn advice(info: &str) -> Vec<String> {
    let value = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let mut advice = Vec::new();
    if value("maxmemory") == Some("0") {
        advice.push(
            "no memory limit: the cache grows until the machine has no memory. Run `CONFIG SET maxmemory \
             1gb` with a limit that fits, and write it into the server's configuration"
                .to_owned(),
        );
    }
    if let Some(policy) = value("maxmemory_policy").filter(|policy| !policy.starts_with("allkeys-"))
    {
        advice.push(format!(
            "maxmemory-policy is {policy}: a full server refuses new entries. Run `CONFIG SET \
             maxmemory-policy allkeys-lru`, and write it into the server's configuration"
        ));
    }
    if value("aof_enabled") == Some("1") {
        advice.push(
            "the server writes every entry to its disk, which a cache does not need. Run `CONFIG SET \
             appendonly no`, and write it into the server's configuration"
                .to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_no_cache_is_named_with_the_remedy() {
        let cache =
            "# Memory\r\nmaxmemory:1024\r\nmaxmemory_policy:allkeys-lfu\r\naof_enabled:0\r\n";
        assert_eq!(advice(cache), Vec::<String>::new());
        // A server that says nothing about its memory is not judged.
        assert_eq!(advice("redis_version:7.0\r\n"), Vec::<String>::new());
        for (from, to, remedy) in [
            ("maxmemory:1024", "maxmemory:0", "CONFIG SET maxmemory 1gb"),
            ("allkeys-lfu", "noeviction", "CONFIG SET maxmemory-policy"),
            ("aof_enabled:0", "aof_enabled:1", "CONFIG SET appendonly no"),
        ] {
            let told = advice(&cache.replace(from, to));
            assert!(told.len() == 1 && told[0].contains(remedy), "{told:?}");
        }
    }
}

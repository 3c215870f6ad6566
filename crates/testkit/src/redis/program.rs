//! Finds the program of the server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory that contains one of [`NAMES`].
const VARIABLE: &str = "KEYWARD_TEST_REDIS";
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// Debian's package redis-tools contains the server under this name and installs no system service.
/// The program acts according to the name with which it is started.
const TOOLS: &str = "/usr/bin/redis-check-rdb";

/// The command that starts a server.
///
/// # Panics
///
/// This machine has no Redis server.
pub(super) fn command() -> Command {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = PathBuf::from(named);
        let server = server_in(&named);
        let server = server.unwrap_or_else(|| {
            let named = named.display();
            panic!("{VARIABLE}: no redis-server or valkey-server in {named}")
        });
        return Command::new(server);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin")]);
    if let Some(server) = directories.find_map(|directory| server_in(&directory)) {
        return Command::new(server);
    }
    assert!(
        Path::new(TOOLS).is_file(),
        "the tests require a Redis server. Run scripts/install-test-tools.sh to install one, or set \
         {VARIABLE} to the directory of redis-server or valkey-server"
    );
    let mut command = Command::new(TOOLS);
    command.arg0(NAMES[0]);
    command
}

fn server_in(directory: &Path) -> Option<PathBuf> {
    let mut servers = NAMES.iter().map(|name| directory.join(name));
    servers.find(|server| server.is_file())
}

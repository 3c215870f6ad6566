//! A service with TLS: its authority and its certificate, in the directory of its callers.

use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_testkit::{Authority, Client, Identity, Process, connect_tls};
use tempfile::TempDir;

use crate::BINARY;

pub(crate) struct Secure {
    pub(crate) authority: Authority,
    directory: TempDir,
}

impl Secure {
    /// With a certificate for `names`.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::showing(|authority| authority.sign(names))
    }

    /// With the certificate that `signed` makes.
    pub(crate) fn showing(signed: impl FnOnce(&Authority) -> Identity) -> Self {
        let secure = Self {
            authority: Authority::new(),
            directory: tempfile::tempdir().unwrap(),
        };
        secure.replace(&signed(&secure.authority));
        std::fs::write(secure.path("ca.crt"), secure.authority.pem()).unwrap();
        secure
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The data directory, where callers look for it by default.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("keyward-data")
    }

    /// Replaces the certificate and its key.
    pub(crate) fn replace(&self, identity: &Identity) {
        identity.write(self.directory());
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Process::command(BINARY, &self.data());
        command.args(["--tls-cert", "server.crt", "--tls-key", "server.key"]);
        command
    }

    pub(crate) fn start(&self) -> Process {
        Process::start(self.command(), &self.data())
    }

    pub(crate) async fn client(&self, process: &Process) -> Client {
        let channel = connect_tls(process.grpc, self.authority.pem()).await;
        Client::over(channel.unwrap(), Some(&process.token()))
    }
}

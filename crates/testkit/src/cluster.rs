//! Many instances on one Postgres: processes that start, stop and die one by one, each behind a
//! proxy of its own if the test wants to cut it off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::local::token_in;
use super::process::without_settings;
use super::turns::Turn;
use super::{Client, Local, Postgres, Process, Proxy, Starting, User};

/// How instances are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an instance may answer without news.
    pub max_staleness: Duration,
    /// Whether each instance reaches Postgres through a proxy of its own.
    pub proxies: bool,
    /// Settings of Postgres, besides those of [`Postgres::start`].
    pub postgres: Vec<(&'static str, &'static str)>,
    /// Variables for each instance, such as `("KEYWARD_WORKERS", "1")`.
    pub variables: Vec<(&'static str, String)>,
}

impl Default for Options {
    /// The shortest staleness there is; no proxies.
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(2),
            proxies: false,
            postgres: Vec::new(),
            variables: Vec::new(),
        }
    }
}

struct Instance {
    process: Process,
    proxy: Option<Proxy>,
}

/// A Postgres and instances on it. Instances are numbered in the order of their starts; a number is
/// not used again.
pub struct Cluster {
    // Before the server they use.
    instances: Vec<Option<Instance>>,
    /// The server; its database `keyward` is the store.
    pub postgres: Postgres,
    binary: String,
    options: Options,
    token: String,
    directory: tempfile::TempDir,
    // After everything that runs in it.
    _turn: Turn,
}

impl Cluster {
    /// Waits for its turn, starts a server, makes the store with `keyward init`, and starts so many instances of
    /// `binary`.
    pub fn start(binary: &str, instances: usize, options: Options) -> Self {
        let turn = Turn::wait();
        let postgres = Postgres::start_with(&options.postgres);
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let first = directory.path().join("init");
        let mut init = without_settings(binary);
        init.current_dir(directory.path())
            .args(["init", "--service-role", User::Service.name()])
            .env("KEYWARD_STORE", postgres.owner_url())
            .env("KEYWARD_KEYRING", directory.path().join("keyring"))
            .env("KEYWARD_DATA_DIR", &first);
        let (status, said) = Process::run_to_end(init);
        assert!(status.success(), "keyward init: {status}\n{said}");
        let mut cluster = Self {
            instances: Vec::new(),
            postgres,
            binary: binary.to_owned(),
            options,
            token: token_in(&first),
            directory,
            _turn: turn,
        };
        // All at once, and then each is waited for.
        let starting: Vec<_> = (0..instances)
            .map(|number| cluster.launch(number))
            .collect();
        for (starting, proxy) in starting {
            let process = starting.ready();
            cluster.instances.push(Some(Instance { process, proxy }));
        }
        cluster
    }

    /// Starts one more instance: its number.
    pub fn add(&mut self) -> usize {
        let number = self.instances.len();
        let (starting, proxy) = self.launch(number);
        let process = starting.ready();
        self.instances.push(Some(Instance { process, proxy }));
        number
    }

    fn launch(&self, number: usize) -> (Starting, Option<Proxy>) {
        let proxy = self
            .options
            .proxies
            .then(|| Proxy::to(self.postgres.address()));
        let store = match &proxy {
            Some(proxy) => self.postgres.url_via(User::Service, proxy.address()),
            None => self.postgres.service_url(),
        };
        let data = self.directory.path().join(format!("instance-{number}"));
        let command = self.command(&data, &store);
        (Process::spawn(command, &data), proxy)
    }

    /// The binary as an operator runs it: with the owner's URL, and arguments to come.
    pub fn operator(&self) -> Command {
        let mut command = without_settings(&self.binary);
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_STORE", self.postgres.owner_url())
            .env("KEYWARD_KEYRING", self.keyring());
        command
    }

    /// The command that starts an instance on `store`, with `data` as its directory.
    pub fn command(&self, data: &Path, store: &str) -> Command {
        let staleness = format!("{}ms", self.options.max_staleness.as_millis());
        let mut command = Process::command(&self.binary, data);
        command
            .env("KEYWARD_STORE", store)
            .env("KEYWARD_KEYRING", self.keyring())
            .env("KEYWARD_MAX_STALENESS", staleness)
            .envs(
                self.options
                    .variables
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        command
    }

    /// The directory of the keyring that all instances have.
    pub fn keyring(&self) -> PathBuf {
        self.directory.path().join("keyring")
    }

    /// A directory that goes with the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The first token, with every role.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The longest time that an instance answers without news.
    pub fn max_staleness(&self) -> Duration {
        self.options.max_staleness
    }

    /// The numbers of the instances that run.
    pub fn running(&self) -> Vec<usize> {
        let running = |number: &usize| self.instances[*number].is_some();
        (0..self.instances.len()).filter(running).collect()
    }

    fn running_one(&self, number: usize) -> &Instance {
        let instance = self.instances.get(number).and_then(Option::as_ref);
        instance.unwrap_or_else(|| panic!("instance {number} does not run"))
    }

    /// An instance that runs.
    pub fn instance(&self, number: usize) -> &Process {
        &self.running_one(number).process
    }

    /// Where an instance serves gRPC.
    pub fn grpc(&self, number: usize) -> SocketAddr {
        self.instance(number).grpc
    }

    /// What is between an instance and Postgres; with [`Options::proxies`].
    pub fn proxy(&self, number: usize) -> &Proxy {
        let proxy = self.running_one(number).proxy.as_ref();
        proxy.expect("the cluster was started with proxies")
    }

    /// A client of an instance, over a connection of its own, with every role.
    pub async fn client(&self, number: usize) -> Client {
        Client::new(self.grpc(number), Some(&self.token)).await
    }

    /// Starts one more instance, in this process and with a clock of the test's own. It has no
    /// number.
    pub async fn local(&self) -> Local {
        let (store, staleness) = (self.postgres.service_url(), self.max_staleness());
        Local::start_on_postgres(&store, &self.keyring(), &self.token, staleness).await
    }

    fn take(&mut self, number: usize) -> Instance {
        let instance = self.instances.get_mut(number).and_then(Option::take);
        instance.unwrap_or_else(|| panic!("instance {number} does not run"))
    }

    /// Asks an instance to stop, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end well.
    pub fn stop(&mut self, number: usize) {
        let mut instance = self.take(number);
        let status = instance.process.stop();
        let output = instance.process.output();
        assert!(status.success(), "instance {number}: {status}\n{output}");
    }

    /// Kills an instance, as a power cut would.
    pub fn kill(&mut self, number: usize) {
        self.take(number).process.kill();
    }
}

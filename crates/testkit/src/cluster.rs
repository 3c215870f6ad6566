//! A cluster of instances on one Postgres. The instances are processes that a test starts, stops
//! and kills. A proxy before each instance can cut it off from Postgres.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::local::{add_import_secrets, token_in};
use super::process::without_settings;
use super::program::{ATTEMPTS, was_too_late};
use super::turns::Turn;
use super::{Client, Local, Postgres, Process, Proxy, Starting, User};

/// The options of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `max_staleness` of the instances.
    pub max_staleness: Duration,
    /// Whether each instance connects to Postgres through its own proxy.
    pub proxies: bool,
    /// Whether Postgres has a standby, to which instances can turn. Without `proxies`.
    pub standby: bool,
    /// Settings of Postgres, in addition to those of [`Postgres::start`].
    pub postgres: Vec<(&'static str, &'static str)>,
    /// Whether the keyring has the [`IMPORT_SECRETS`](crate::IMPORT_SECRETS).
    pub import_secrets: bool,
    /// Environment variables of each instance, such as `("KEYWARD_WORKERS", "1")`.
    pub variables: Vec<(&'static str, String)>,
    /// How many of the turns of heavy scenarios the cluster takes: more than one, if it would slow
    /// down others that run beside it.
    pub turns: usize,
}

impl Options {
    /// The default, with the Redis at this URL.
    pub fn with_redis(url: String) -> Self {
        Self {
            variables: vec![("KEYWARD_REDIS", url)],
            ..Self::default()
        }
    }
}

impl Default for Options {
    /// The minimum of `max_staleness`; no proxies.
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(2),
            proxies: false,
            standby: false,
            postgres: Vec::new(),
            import_secrets: false,
            variables: Vec::new(),
            turns: 1,
        }
    }
}

struct Instance {
    process: Process,
    proxy: Option<Proxy>,
}

/// A Postgres and its instances. Instances are numbered in the order of their starts. A number is
/// never reused.
pub struct Cluster {
    // Dropped before the server that they use.
    instances: Vec<Option<Instance>>,
    /// The server. Its database `keyward` is the store.
    pub postgres: Postgres,
    /// Its standby, if the options ask for one.
    standby: Option<Postgres>,
    binary: String,
    options: Options,
    token: String,
    directory: tempfile::TempDir,
    // After everything that runs in it.
    _turn: Turn,
}

impl Cluster {
    /// Starts a server, prepares the store with `keyward init`, and starts `count` instances of
    /// `binary`.
    pub fn start(binary: &str, instances: usize, options: Options) -> Self {
        let turn = Turn::wait(options.turns);
        let postgres = Postgres::start_with(&options.postgres);
        let standby = options.standby.then(|| postgres.standby());
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let first = directory.path().join("init");
        let mut init = without_settings(binary);
        init.current_dir(directory.path())
            .args(["init", "--service-role", User::Service.name()])
            .env("KEYWARD_STORE", postgres.owner_url())
            .env("KEYWARD_KEYRING", directory.path().join("keyring"))
            .env("KEYWARD_DATA_DIR", &first);
        for attempt in 0.. {
            let (status, output) = Process::run_to_end(&mut init);
            if status.success() {
                break;
            }
            let again = was_too_late(&output) && attempt < ATTEMPTS;
            assert!(again, "keyward init: {status}\n{output}");
        }
        if options.import_secrets {
            add_import_secrets(&directory.path().join("keyring"));
        }
        let mut cluster = Self {
            instances: Vec::new(),
            postgres,
            standby,
            binary: binary.to_owned(),
            options,
            token: token_in(&first),
            directory,
            _turn: turn,
        };
        cluster.add_with(instances, &[]);
        cluster
    }

    /// Starts one more instance and returns its number.
    pub fn add(&mut self) -> usize {
        self.add_with(1, &[]).start
    }

    /// Starts further instances with additional environment variables, and returns their numbers.
    pub fn add_with(&mut self, count: usize, variables: &[(&str, &str)]) -> Range<usize> {
        let first = self.instances.len();
        let numbers = first..first + count;
        // Start all, then wait for each.
        let starting: Vec<_> = numbers
            .clone()
            .map(|number| self.launch(number, variables))
            .collect();
        for (number, mut started) in numbers.clone().zip(starting) {
            for attempt in 0.. {
                let (starting, proxy) = started;
                match starting.try_ready() {
                    Ok(process) => {
                        self.instances.push(Some(Instance { process, proxy }));
                        break;
                    }
                    Err(why) => assert!(was_too_late(&why) && attempt < ATTEMPTS, "{why}"),
                }
                started = self.launch(number, variables);
            }
        }
        numbers
    }

    fn launch(&self, number: usize, variables: &[(&str, &str)]) -> (Starting, Option<Proxy>) {
        let proxy = self
            .options
            .proxies
            .then(|| Proxy::to(self.postgres.address()));
        let store = match &proxy {
            Some(proxy) => self.postgres.url_via(User::Service, proxy.address()),
            None => self.urls(User::Service),
        };
        let data = self.directory.path().join(format!("instance-{number}"));
        let mut command = self.command(&data, &store);
        command.envs(variables.iter().copied());
        (Process::spawn(command, &data), proxy)
    }

    /// The URLs of all servers for `user`, as the setting `store`.
    fn urls(&self, user: User) -> String {
        let servers = [Some(&self.postgres), self.standby.as_ref()];
        let urls = servers.into_iter().flatten();
        let urls = urls.map(|server| server.database().url(user));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The standby. Requires [`Options::standby`].
    pub fn standby(&self) -> &Postgres {
        let standby = self.standby.as_ref();
        standby.expect("the cluster was started with a standby")
    }

    /// The command `keyward` as an operator runs it, with the owner's URL. The caller adds the
    /// arguments.
    pub fn operator(&self) -> Command {
        let mut command = without_settings(&self.binary);
        command
            .current_dir(self.directory.path())
            .env("KEYWARD_STORE", self.urls(User::Owner))
            .env("KEYWARD_KEYRING", self.keyring());
        command
    }

    /// The command that starts an instance on `store` with the data directory `data`.
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

    /// The keyring that all instances share.
    pub fn keyring(&self) -> PathBuf {
        self.directory.path().join("keyring")
    }

    /// A directory that is removed with the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The first token, with every role.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The `max_staleness` of the instances.
    pub fn max_staleness(&self) -> Duration {
        self.options.max_staleness
    }

    /// The numbers of the running instances.
    pub fn running(&self) -> Vec<usize> {
        let running = |number: &usize| self.instances[*number].is_some();
        (0..self.instances.len()).filter(running).collect()
    }

    fn running_one(&self, number: usize) -> &Instance {
        let instance = self.instances.get(number).and_then(Option::as_ref);
        instance.unwrap_or_else(|| panic!("instance {number} does not run"))
    }

    /// A running instance.
    pub fn instance(&self, number: usize) -> &Process {
        &self.running_one(number).process
    }

    /// The gRPC address of an instance.
    pub fn grpc(&self, number: usize) -> SocketAddr {
        self.instance(number).grpc
    }

    /// The proxy between an instance and Postgres. Requires [`Options::proxies`].
    pub fn proxy(&self, number: usize) -> &Proxy {
        let proxy = self.running_one(number).proxy.as_ref();
        proxy.expect("the cluster was started with proxies")
    }

    /// A client of an instance with every role, over a new connection.
    pub async fn client(&self, number: usize) -> Client {
        Client::new(self.grpc(number), Some(&self.token)).await
    }

    /// Starts one more instance in this process, with a clock that the test controls. It has no
    /// number.
    pub async fn local(&self) -> Local {
        let (store, staleness) = (self.postgres.service_url(), self.max_staleness());
        Local::start_on_postgres(&store, &self.keyring(), &self.token, staleness).await
    }

    fn take(&mut self, number: usize) -> Instance {
        let instance = self.instances.get_mut(number).and_then(Option::take);
        instance.unwrap_or_else(|| panic!("instance {number} does not run"))
    }

    /// Stops an instance and waits for its end.
    ///
    /// # Panics
    ///
    /// The instance ends with an error.
    pub fn stop(&mut self, number: usize) {
        let mut instance = self.take(number);
        let status = instance.process.stop();
        let output = instance.process.output();
        assert!(status.success(), "instance {number}: {status}\n{output}");
    }

    /// Stops all instances at the same time.
    ///
    /// # Panics
    ///
    /// An instance ends with an error.
    pub fn stop_all(&mut self) {
        for number in self.running() {
            self.instance(number).begin_stop();
        }
        for number in self.running() {
            self.stop(number);
        }
    }

    /// Kills an instance with SIGKILL, like a power failure.
    pub fn kill(&mut self, number: usize) {
        self.take(number).process.kill();
    }
}

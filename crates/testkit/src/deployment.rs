//! Runs `deploy/compose.yaml` as processes of this machine, with the same commands, variables and
//! secrets. Private servers replace the images of Postgres and Redis. `words` translates paths,
//! host names and ports of containers.

mod words;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::deadline::{PATIENCE, wait_until};
use crate::files::{read, write};
use crate::guard::{Guard, KILL_ALL};
use crate::process::without_settings;
use crate::processes;
use crate::program::{ATTEMPTS, was_too_late};
use crate::turns::Turn;
use crate::{Client, Compose, Identity, Postgres, Redis, RedisOptions, User, connect_tls};
use words::{Ports, Words};

/// A running deployment. All its processes end when it is dropped or when this process ends.
pub struct Deployment {
    running: BTreeMap<String, Child>,
    /// The bot's binary, and the bot's translations.
    binaries: BTreeMap<&'static str, PathBuf>,
    compose: Compose,
    words: Words,
    ports: Ports,
    /// Replaces the image of Postgres.
    pub postgres: Postgres,
    /// Replaces the image of Redis.
    pub redis: Redis,
    guard: Guard,
    // After everything that runs in it.
    _turn: Turn,
}

impl Deployment {
    /// Creates the secrets with `deploy/secrets.sh` and starts every service of
    /// `deploy/compose.yaml` except the bot, in the order of their dependencies. `keyward` is the
    /// binary; `repository` is the root of the repository.
    pub fn start(repository: &Path, keyward: &Path) -> Self {
        let turn = Turn::wait(1);
        let deploy = repository.join("deploy");
        let guard = Guard::new("deployment", KILL_ALL);
        let home = guard.home().to_path_buf();
        let output = without_settings(deploy.join("secrets.sh"))
            .arg(&home)
            .env("TELEGRAM_TOKEN", crate::telegram::TOKEN)
            .output();
        let output = output.expect("deploy/secrets.sh can be run");
        assert!(output.status.success(), "deploy/secrets.sh: {output:?}");
        let variables = variables(&read(&home.join(".env")));
        let compose = Compose::read(&read(&deploy.join("compose.yaml")), &variables);

        let secrets = home.join("secrets");
        let authority = read(&secrets.join("ca.pem"));
        let postgres = Postgres::start_tls_as(&authority, &Identity::read(&secrets, "postgres"));
        make_roles(&deploy, &secrets, &postgres);
        let redis = Redis::with(RedisOptions {
            acl: Some(read(&secrets.join("redis.acl"))),
            tls: true,
            identity: Some((authority, Identity::read(&secrets, "redis"))),
            ..RedisOptions::default()
        });

        let ports = Ports::draw();
        let words = Words::new(&home, keyward, &compose, &ports, &postgres, &redis);
        // Translate the files with secrets and settings.
        let run = home.join("run");
        fs::create_dir(&run).expect("a directory can be made");
        for (name, file) in compose.secret_files() {
            write(&run.join(name), &words.say(&read(&home.join(file))));
        }
        let balancer = words.say(&read(&deploy.join("haproxy.cfg")));
        write(&home.join("haproxy.cfg"), &balancer);
        let mut deployment = Self {
            running: BTreeMap::new(),
            binaries: BTreeMap::from([("keyward", keyward.to_path_buf())]),
            compose,
            words,
            ports,
            postgres,
            redis,
            guard,
            _turn: turn,
        };
        let order: Vec<_> = deployment.compose.in_order();
        let order: Vec<_> = order.into_iter().map(str::to_owned).collect();
        for service in order {
            if !["postgres", "redis", "bot"].contains(&service.as_str()) {
                deployment.up(&service);
            }
        }
        deployment
    }

    /// Starts the service `bot` with this binary and another Bot API, and waits until it is
    /// healthy.
    pub fn start_bot(&mut self, binary: &Path, telegram_api_url: &str) {
        self.binaries.insert("keyward-bot", binary.to_path_buf());
        self.words.put_first("/usr/local/bin/keyward-bot", binary);
        let mut command = self.command("bot");
        command.env("KEYWARD_BOT_TELEGRAM_API_URL", telegram_api_url);
        self.spawn("bot", command);
        let check = self.compose.check("bot").expect("the bot has a check");
        self.wait_until_healthy("bot", &check);
    }

    /// Runs the health check of a service once. Returns its output if the service is not healthy.
    pub fn check(&self, service: &str) -> Result<(), String> {
        let check = self
            .compose
            .check(service)
            .expect("the service has a check");
        self.run_check(service, &check)
    }

    /// Starts a stopped or killed service and waits until it is healthy. A service that runs once
    /// runs to its end. Returns its output.
    pub fn up(&mut self, service: &str) -> String {
        if self.compose.is_once(service) {
            return self.run_once(service);
        }
        let command = self.command(service);
        self.spawn(service, command);
        if let Some(check) = self.compose.check(service) {
            self.wait_until_healthy(service, &check);
        }
        String::new()
    }

    /// Runs a service to its end, again if a server did not answer in time.
    fn run_once(&mut self, service: &str) -> String {
        for attempt in 0.. {
            let command = self.command(service);
            self.spawn(service, command);
            let (status, output) = (self.end_of(service), self.log(service));
            if status.success() {
                return output;
            }
            let again = was_too_late(&output) && attempt < ATTEMPTS;
            assert!(again, "{service}: {status}\n{output}");
        }
        unreachable!("an attempt ends the loop")
    }

    /// Kills a service with SIGKILL, like a power failure.
    pub fn kill(&mut self, service: &str) {
        let child = self.running.remove(service).expect("the service runs");
        end(child);
    }

    /// Stops a service and waits for its end.
    pub fn stop(&mut self, service: &str) -> ExitStatus {
        let child = self.running.get(service).expect("the service runs");
        processes::send(processes::id(child), Signal::TERM);
        self.end_of(service)
    }

    /// Waits until a service has ended.
    fn end_of(&mut self, service: &str) -> ExitStatus {
        let mut child = self.running.remove(service).expect("the service runs");
        wait_until(&format!("{service} ends"), PATIENCE, || {
            let ended = child.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        child.wait().expect("it has ended")
    }

    /// Whether a service still runs.
    pub fn is_running(&mut self, service: &str) -> bool {
        let child = self.running.get_mut(service);
        child.is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// The output of a service since its start, stdout and stderr.
    pub fn log(&self, service: &str) -> String {
        fs::read_to_string(self.log_file(service)).unwrap_or_default()
    }

    /// The address of the load balancer.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.balancer))
    }

    /// The side ports of the instances.
    pub fn side_ports(&self) -> Vec<SocketAddr> {
        let ports = self.ports.http.values();
        ports
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
            .collect()
    }

    /// The certificate authority that callers trust.
    pub fn authority(&self) -> PathBuf {
        self.guard.home().join("secrets/ca.pem")
    }

    /// A token: `operator/admin.token`, or `bot/token`.
    pub fn token(&self, file: &str) -> String {
        let text = read(&self.guard.home().join("state").join(file));
        text.trim_end().to_owned()
    }

    /// A client through the load balancer with this token.
    pub async fn client(&self, token: &str) -> Client {
        let channel = connect_tls(self.address(), &read(&self.authority())).await;
        Client::over(
            channel.expect("the balancer takes connections"),
            Some(token),
        )
    }

    /// The command of a service, as its container runs it.
    fn command(&self, service: &str) -> Command {
        let mut words = self.compose.command(service);
        let program = match self.binaries.get(self.compose.image(service)) {
            Some(binary) => binary.clone(),
            None => PathBuf::from(words.remove(0)),
        };
        let own = self.words.of(service, &self.ports);
        let mut command = without_settings(program);
        command
            .args(words.iter().map(|word| own.say(word)))
            .current_dir(self.guard.home());
        for (name, value) in self.compose.environment(service) {
            command.env(name, own.say(value));
        }
        command
    }

    fn log_file(&self, service: &str) -> PathBuf {
        self.guard.home().join(format!("{service}.log"))
    }

    fn spawn(&mut self, service: &str, mut command: Command) {
        let log = File::create(self.log_file(service)).expect("a log can be written");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {service}: {error}. Run scripts/install-test-tools.sh")
            });
        self.running.insert(service.to_owned(), child);
    }

    /// Starts the service again if a server did not answer in time, as its restart policy does.
    fn wait_until_healthy(&mut self, service: &str, check: &[String]) {
        let mut restarts = 0;
        wait_until(&format!("{service} is healthy"), PATIENCE, || {
            if !self.is_running(service) {
                let log = self.log(service);
                let again = was_too_late(&log) && restarts < ATTEMPTS;
                assert!(again, "{service} ended:\n{log}");
                restarts += 1;
                let command = self.command(service);
                self.spawn(service, command);
            }
            self.run_check(service, check).is_ok()
        });
    }

    /// Runs a health check with the same directory and variables as the service.
    fn run_check(&self, service: &str, check: &[String]) -> Result<(), String> {
        let own = self.words.of(service, &self.ports);
        let check: Vec<_> = check.iter().map(|word| own.say(word)).collect();
        let environment = self.compose.environment(service).into_iter();
        let output = without_settings(&check[0])
            .args(&check[1..])
            .envs(environment.map(|(name, value)| (name, own.say(value))))
            .current_dir("/")
            .output();
        let output = output.expect("a health check can be run");
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for (_, child) in std::mem::take(&mut self.running) {
            end(child);
        }
    }
}

/// Kills a service and its children, which have their own process group.
fn end(mut child: Child) {
    // The process may have ended.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait();
}

/// Runs the initialization script of the Postgres image.
fn make_roles(deploy: &Path, secrets: &Path, postgres: &Postgres) {
    let mut command = without_settings(deploy.join("postgres-roles.sh"));
    if let Some(directory) = std::env::var_os("KEYWARD_TEST_POSTGRES") {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let both = [PathBuf::from(directory)]
            .into_iter()
            .chain(std::env::split_paths(&path));
        command.env(
            "PATH",
            std::env::join_paths(both).expect("paths are a PATH"),
        );
    }
    let done = command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", postgres.port().to_string())
        .env("PGPASSWORD", User::Superuser.password())
        .env("POSTGRES_DB", postgres.database().name())
        .env("KEYWARD_SECRETS", secrets)
        .output();
    let done = done.expect("deploy/postgres-roles.sh can be run");
    assert!(done.status.success(), "deploy/postgres-roles.sh: {done:?}");
}

/// The variables of an `.env` file.
fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

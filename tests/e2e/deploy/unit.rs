//! The systemd units: their commands as processes, with the sample settings.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::telegram::Telegram;
use keyward_testkit::{
    AgentProcess, Authority, Client, Cluster, Options, Process, Program, Programs, connect_tls,
};

use super::repository;

/// The values of a directive, in order.
fn values(unit: &str, name: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines.filter_map(|rest| rest.strip_prefix('='));
    values.map(str::to_owned).collect()
}

fn unit(name: &str) -> String {
    fs::read_to_string(repository().join("deploy/systemd").join(name)).unwrap()
}

/// The command as systemd would run it, with the credentials in this directory.
fn command(unit: &str, program: &Path, credentials: &Path) -> Command {
    let starts = values(unit, "ExecStart");
    assert_eq!(starts.len(), 1);
    let credentials = credentials.to_str().unwrap();
    let line = starts[0].replace("${CREDENTIALS_DIRECTORY}", credentials);
    let mut words = line.split(' ');
    let named = Path::new(words.next().unwrap());
    assert_eq!(named.file_name(), program.file_name());
    let mut command = Command::new(program);
    command.env_clear().args(words);
    for variable in values(unit, "Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value.replace("%d", credentials));
    }
    command
}

/// The unit of the service, started on a store of its own.
struct Unit {
    process: Process,
    authority: Authority,
    cluster: Cluster,
    home: tempfile::TempDir,
}

impl Unit {
    fn start() -> Self {
        // Brings a store, a keyring and a token along.
        let cluster = Cluster::start(crate::BINARY, 0, Options::default());
        let home = tempfile::tempdir().unwrap();
        let credentials = home.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let authority = Authority::new();
        authority.sign(&["127.0.0.1"]).write(home.path());
        let unit = unit("keyward.service");
        let loaded = values(&unit, "LoadCredential");
        assert_eq!(loaded, ["keyward.toml:/etc/keyward/keyward.toml"]);
        let settings = settings(home.path(), &cluster);
        fs::write(credentials.join("keyward.toml"), settings).unwrap();
        let binary = Path::new(crate::BINARY);
        let process = Process::start(command(&unit, binary, &credentials), home.path());
        Self {
            process,
            authority,
            cluster,
            home,
        }
    }

    async fn client(&self) -> Client {
        let channel = connect_tls(self.process.grpc, self.authority.pem()).await;
        Client::over(channel.unwrap(), Some(self.cluster.token()))
    }
}

/// The sample settings, with what a deployment writes in place of the sample's values.
fn settings(home: &Path, cluster: &Cluster) -> String {
    let sample = fs::read_to_string(repository().join("deploy/keyward.toml")).unwrap();
    let place = home.to_str().unwrap();
    let keyring = cluster.keyring();
    let store = cluster.postgres.service_url();
    let words = [
        ("0.0.0.0:50051", "127.0.0.1:0"),
        ("127.0.0.1:9464", "127.0.0.1:0"),
        ("0.0.0.0:50080", "127.0.0.1:0"),
        ("/etc/keyward/tls", place),
        ("/etc/keyward/keyring", keyring.to_str().unwrap()),
        ("/var/lib/keyward", place),
    ];
    let settings = words.iter().fold(sample, |text, (there, here)| {
        assert!(text.contains(there), "{there}");
        text.replace(there, here)
    });
    let lines = settings.lines().map(|line| match line.split(' ').next() {
        Some("store") => format!("store = \"{store}\"\n"),
        Some("redis") => "redis = \"none\"\n".to_owned(),
        Some("log_format") => "log_format = \"text\"\n".to_owned(),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// The agent by its unit, with the secrets that it loads, and its sockets in `home`.
fn agent(home: &Path, service: &Unit, token: &str) -> AgentProcess {
    let unit = unit("keyward-agent.service");
    let sample = fs::read_to_string(repository().join("deploy/keyward-agent.toml")).unwrap();
    let settings: String = sample
        .replace("/run/keyward-agent", home.to_str().unwrap())
        .replace("127.0.0.1:9466", "127.0.0.1:0")
        .lines()
        .map(|line| match line.split(' ').next() {
            Some("endpoint") => format!("endpoint = \"https://{}\"\n", service.process.grpc),
            Some("log_format") => "log_format = \"text\"\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    let contents = [
        ("keyward-agent.toml", settings),
        ("keyward.token", format!("{token}\n")),
        ("ca.pem", service.authority.pem().to_owned()),
    ];
    let named = contents
        .each_ref()
        .map(|(name, _)| format!("{name}:/etc/keyward-agent/{name}"));
    assert_eq!(values(&unit, "LoadCredential"), named);
    for (name, text) in contents {
        fs::write(home.join(name), text).unwrap();
    }
    AgentProcess::start(command(&unit, Path::new(crate::BINARY), home))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_that_its_unit_starts_verifies_on_its_socket() {
    let service = Unit::start();
    let client = service.client().await;
    let roles = [Role::NearCache, Role::Verifier];
    let token = client.token("host", &roles).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut agent = agent(home.path(), &service, &token);
    assert!(agent.grpc.starts_with("unix:"), "{}", agent.grpc);
    let program = agent.client(None).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    client.revoke(&id).await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Revoked);
    assert!(agent.stop().success(), "{}", agent.output());
}

/// The bot by its unit, with the secrets that it loads.
fn bot(home: &Path, service: &Unit, token: &str, telegram: &Telegram) -> Program {
    let unit = unit("keyward-bot.service");
    let mut loaded: Vec<_> = values(&unit, "LoadCredential");
    loaded.sort_unstable();
    let sample = fs::read_to_string(repository().join("deploy/keyward-bot.toml")).unwrap();
    let settings: String = sample
        .replace("127.0.0.1:9465", "127.0.0.1:0")
        .lines()
        .map(|line| match line.split(' ').next() {
            Some("endpoint") => format!("endpoint = \"https://{}\"\n", service.process.grpc),
            Some("log_format") => "log_format = \"text\"\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    let contents = [
        ("ca.pem", service.authority.pem().to_owned()),
        ("keyward-bot.toml", settings),
        ("keyward.token", format!("{token}\n")),
        ("telegram.token", format!("{}\n", telegram.token())),
    ];
    let named = contents
        .each_ref()
        .map(|(name, _)| format!("{name}:/etc/keyward-bot/{name}"));
    assert_eq!(loaded, named);
    for (name, text) in contents {
        fs::write(home.join(name), text).unwrap();
    }
    let mut command = command(&unit, &Programs::get().bot, home);
    command.env("KEYWARD_BOT_TELEGRAM_API_URL", telegram.url());
    Program::start("keyward-bot", command, "keyward-bot is ready: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_played_on_what_the_units_start() {
    let mut service = Unit::start();
    let client = service.client().await;
    let telegram = Telegram::start();
    let credentials = tempfile::tempdir().unwrap();
    let token = client.token("bot", &[Role::Issuer, Role::Revealer]).await;
    let mut bot = bot(credentials.path(), &service, &token.unwrap(), &telegram);
    let authority = service.home.path().join("ca.pem");
    fs::write(&authority, service.authority.pem()).unwrap();
    let url = format!("https://{}", service.process.grpc);
    super::story::play(&telegram, &client, &url, &authority).await;
    assert!(bot.stop().success(), "{}", bot.output());
    assert!(service.process.stop().success());
}

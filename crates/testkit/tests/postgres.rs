//! The private Postgres server has the properties that the tests of faults rely on, and leaves
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward_testkit::{Postgres, User, wait_until};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

const PATIENCE: Duration = Duration::from_secs(60);

async fn text(url: &str, query: &'static str) -> String {
    let mut connection = Postgres::connect(url).await;
    let row = sqlx::query(query).fetch_one(&mut connection).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn each_user_gets_in_with_its_password_only() {
    let postgres = Postgres::shared();
    for user in [User::Owner, User::Service, User::Superuser] {
        let url = postgres.database().url(user);
        assert_eq!(text(&url, "SELECT current_user::text").await, user.name());
        assert_eq!(
            text(&url, "SELECT current_database()::text").await,
            "keyward"
        );
        let wrong = url.replace("-secret", "-guess");
        assert_ne!(wrong, url);
        let refused = PgConnection::connect(&wrong).await.unwrap_err();
        assert!(refused.to_string().contains("password"), "{refused}");
    }
}

#[tokio::test]
async fn only_the_owner_may_change_the_schema() {
    let database = Postgres::shared().fresh_database("schema").await;
    let mut owner = Postgres::connect(&database.owner_url()).await;
    let create = "CREATE TABLE kept (n int)";
    sqlx::query(create).execute(&mut owner).await.unwrap();
    let mut service = Postgres::connect(&database.service_url()).await;
    let refused = sqlx::query("CREATE TABLE made (n int)")
        .execute(&mut service)
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("permission denied")
    );
    let count = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(text(&database.superuser_url(), count).await, "1");
    let other = Postgres::shared().fresh_database("schema").await;
    assert_ne!(database, other);
    assert_eq!(text(&other.superuser_url(), count).await, "0");
}

#[tokio::test]
async fn settings_are_in_force() {
    let postgres = Postgres::start_with(&[("fsync", "on"), ("work_mem", "5MB")]);
    let url = postgres.service_url();
    assert_eq!(text(&url, "SHOW fsync").await, "on");
    assert_eq!(text(&url, "SHOW work_mem").await, "5MB");
    assert_eq!(text(&url, "SHOW max_connections").await, "200");
    assert_eq!(
        text(&Postgres::shared().service_url(), "SHOW fsync").await,
        "off"
    );
}

#[tokio::test]
async fn what_is_committed_survives_a_stop_and_a_kill_on_the_same_port() {
    let postgres = Postgres::start();
    let url = postgres.owner_url();
    postgres
        .execute("CREATE TABLE kept (n int); GRANT ALL ON kept TO PUBLIC")
        .await;
    for (round, way) in [Postgres::kill, Postgres::stop, Postgres::kill]
        .iter()
        .enumerate()
    {
        postgres
            .execute(&format!("INSERT INTO kept VALUES ({round})"))
            .await;
        let mut open = Postgres::connect(&url).await;
        way(&postgres);
        assert!(open.ping().await.is_err(), "the connection is gone");
        assert!(
            PgConnection::connect(&url).await.is_err(),
            "the server is gone"
        );
        postgres.start_again();
        let rows = text(&url, "SELECT count(*)::text FROM kept").await;
        assert_eq!(rows, (round + 1).to_string());
    }
    postgres.restart();
    assert_eq!(text(&url, "SELECT count(*)::text FROM kept").await, "3");
}

#[tokio::test]
async fn a_paused_server_answers_when_it_goes_on() {
    let postgres = Postgres::start();
    let mut open = Postgres::connect(&postgres.owner_url()).await;
    for _ in 0..3 {
        postgres.pause();
        let short = Duration::from_millis(300);
        let mut ping = Box::pin(open.ping());
        let late = tokio::time::timeout(short, &mut ping).await;
        assert!(late.is_err(), "a backend is not paused");
        let url = postgres.owner_url();
        let mut connect = Box::pin(PgConnection::connect(&url));
        let late = tokio::time::timeout(short, &mut connect).await;
        assert!(late.is_err(), "the postmaster is not paused");
        postgres.resume();
        ping.await.unwrap();
        connect.await.unwrap();
    }
}

#[tokio::test]
async fn the_certificate_holds_for_its_name_and_its_authority() {
    let postgres = Postgres::start_tls();
    let url = postgres.tls_url(User::Service);
    let query = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(text(&url, query).await, "true");
    let other_name = url.replace("localhost", "127.0.0.1");
    assert!(PgConnection::connect(&other_name).await.is_err());
    let stranger = Postgres::start_tls();
    let authority = |postgres: &Postgres| postgres.authority().to_str().unwrap().to_owned();
    let other_authority = url.replace(&authority(&postgres), &authority(&stranger));
    assert!(PgConnection::connect(&other_authority).await.is_err());
}

/// In the process with this variable, the test below is the victim.
const VICTIM: &str = "TESTKIT_VICTIM";

/// A process is killed while a static that is never dropped holds its server. The second time the
/// server is paused.
#[tokio::test]
async fn a_server_and_its_directory_end_with_the_process() {
    if let Ok(state) = std::env::var(VICTIM) {
        let postgres = Postgres::shared();
        let home = text(&postgres.superuser_url(), "SHOW data_directory").await;
        if state == "paused" {
            postgres.pause();
        }
        println!("\nSERVER {home}");
        std::thread::sleep(PATIENCE);
        return;
    }
    for state in ["running", "paused"] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_server_and_its_directory_end_with_the_process"])
            .arg("--nocapture")
            .env(VICTIM, state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let data = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("SERVER ")?.to_owned()));
        let data = data.unwrap();
        let data = Path::new(&data);
        let postmaster = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let process = format!("/proc/{}/cmdline", postmaster.lines().next().unwrap());
        assert!(!std::fs::read(&process).unwrap().is_empty());
        victim.kill().unwrap();
        victim.wait().unwrap();
        let home = data.parent().unwrap();
        wait_until("the directory goes", PATIENCE, || !home.exists());
        // A zombie has no command line.
        let ended = std::fs::read(&process).unwrap_or_default();
        assert!(ended.is_empty(), "the server goes on: {state}");
    }
}

#[tokio::test]
async fn dropping_a_server_ends_it() {
    let postgres = Postgres::start();
    let data = text(&postgres.superuser_url(), "SHOW data_directory").await;
    let address = postgres.address();
    drop(postgres);
    assert!(!Path::new(&data).parent().unwrap().exists());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn many_servers_start_at_the_same_time() {
    let start = || std::thread::spawn(Postgres::start);
    let servers: Vec<_> = (0..4).map(|_| start()).collect();
    for server in servers {
        let postgres = server.join().unwrap();
        let mut connection = Postgres::connect(&postgres.owner_url()).await;
        let query = AssertSqlSafe(format!("SELECT {}", postgres.port()));
        let port: i32 = sqlx::query_scalar(query)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(u16::try_from(port).unwrap(), postgres.port());
    }
}

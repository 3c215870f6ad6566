//! The private Postgres server has the properties that the tests of faults rely on, and leaves
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward_testkit::{PATIENCE, Postgres, wait_until};
use sqlx::{Connection, PgConnection, Row};

async fn text(url: &str, query: &'static str) -> String {
    let mut connection = Postgres::connect(url).await;
    let row = sqlx::query(query).fetch_one(&mut connection).await.unwrap();
    row.get(0)
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

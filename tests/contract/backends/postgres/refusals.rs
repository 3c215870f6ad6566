//! What a server refuses: the error has the server's words, the cause and the remedy, and is never
//! told as an unreachable server.

use keyward_store::{Keys as _, Store as _, StoreError};
use keyward_testkit::{Database, User};

use super::schema::open;
use super::{SERVICE, connect_owner, empty, fresh};
use crate::world::{World, actor};

/// What `keyward migrate --service-role` and then `keyward serve` say; empty if they succeed.
async fn prepared(database: &Database) -> (String, String) {
    let migrated = match connect_owner(&database.owner_url()).await {
        Ok(mut owner) => owner.migrate(Some(SERVICE)).await,
        Err(refused) => Err(refused),
    };
    let migrated = migrated.err().map(|refused| refused.to_string());
    let opened = open(&[&database.service_url()]).await;
    if let Ok(store) = &opened {
        store.close().await;
    }
    (
        migrated.unwrap_or_default(),
        opened.err().unwrap_or_default(),
    )
}

#[tokio::test]
async fn a_hardened_database_serves_or_says_what_to_do() {
    const GRANT: &str = "GRANT EXECUTE ON FUNCTION pg_control_system() TO \"keyward_service\"";
    const FOREIGN: &str = "belongs to another program: its table _sqlx_migrations starts with \
                           migration 20240102030405, 'users'";
    let ours = "ALTER ROLE keyward_owner IN DATABASE {} SET";
    let service = "ALTER ROLE keyward_service IN DATABASE {} SET";
    for (sql, migrate, serve) in [
        // Sessions set their own search_path, and the owner grants what serving needs.
        (format!("{ours} search_path = ''"), "", ""),
        (format!("{service} search_path = ''"), "", ""),
        ("REVOKE CONNECT ON DATABASE {} FROM PUBLIC".to_owned(), "", ""),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE keyward_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"
                .to_owned(),
            "",
            "",
        ),
        (
            format!("{service} default_transaction_read_only = on"),
            "",
            "default_transaction_read_only is on. Turn it off where it is set",
        ),
        (
            format!("{ours} default_transaction_read_only = on"),
            "default_transaction_read_only is on",
            "the database lacks schema 1",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
             GRANT EXECUTE ON FUNCTION pg_control_system() TO keyward_owner"
                .to_owned(),
            GRANT,
            GRANT,
        ),
        (
            "CREATE TABLE _sqlx_migrations (version bigint, description text, checksum bytea,
                    success boolean);
             ALTER TABLE _sqlx_migrations OWNER TO keyward_owner;
             GRANT SELECT ON _sqlx_migrations TO keyward_service;
             INSERT INTO _sqlx_migrations VALUES (20240102030405, 'users', '\\x00', true)"
                .to_owned(),
            FOREIGN,
            FOREIGN,
        ),
        (
            "CREATE TABLE api_keys (id int)".to_owned(),
            "Another program uses this database: give Keyward a database of its own",
            "permission denied for table _sqlx_migrations. Run `keyward migrate --service-role",
        ),
    ] {
        let database = empty().await;
        let sql = sql.replace("{}", database.name());
        database.execute(&sql).await;
        let (migrated, opened) = prepared(&database).await;
        for (said, expected) in [(&migrated, migrate), (&opened, serve)] {
            assert!(said.contains(expected), "{sql}: {said}");
            assert_eq!(said.is_empty(), expected.is_empty(), "{sql}: {said}");
            for misleading in ["reachable", "backup", "newer keyward", "-secret"] {
                assert!(!said.contains(misleading), "{sql}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let database = empty().await;
    // The harness drops template0.
    database
        .execute("CREATE DATABASE template0 TEMPLATE template1")
        .await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("text_{}", encoding.to_lowercase());
        let create = format!(
            "CREATE DATABASE {name} OWNER keyward_owner ENCODING '{encoding}' TEMPLATE template0"
        );
        database.execute(&create).await;
        let url = |user| database.url(user).replace(database.name(), &name);
        let migrated = connect_owner(&url(User::Owner))
            .await
            .err()
            .unwrap()
            .to_string();
        let opened = open(&[&url(User::Service)]).await.err().unwrap();
        for said in [migrated, opened] {
            let expected = format!("the encoding of the database {name} is {encoding}");
            assert!(said.contains(&expected), "{said}");
            assert!(
                said.contains("ENCODING 'UTF8' TEMPLATE template0"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_login_is_not_told_as_an_unreachable_server() {
    let database = fresh().await.database;
    let url = database.service_url();
    for (wrong, expected) in [
        (
            url.replace("service-secret", "wrong"),
            "password authentication failed for user \"keyward_service\". Check the user and the password",
        ),
        (
            format!("{url}_none"),
            "does not exist. Create the database, or correct its name",
        ),
    ] {
        let said = open(&[&wrong]).await.err().unwrap();
        assert!(said.contains(expected), "{said}");
        assert!(
            !said.contains("reachable") && !said.contains("no Postgres"),
            "{said}"
        );
    }
    // A missing right is not away while the service runs either.
    let store = open(&[&url]).await.unwrap();
    database
        .execute("REVOKE SELECT ON api_keys FROM keyward_service")
        .await;
    let refused = store
        .find_keys(&[keyward_crypto::Digest::from_bytes([7; 32])])
        .await;
    let Err(StoreError::Refused(said)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        said.contains("permission denied for table api_keys. Run `keyward migrate"),
        "{said}"
    );
    store.close().await;
}

/// The server raises each code in a statement of Issue.
#[tokio::test]
async fn each_sqlstate_is_told_as_what_it_is() {
    let backend = fresh().await;
    let raise = async |code: &str| {
        let function = format!(
            "CREATE OR REPLACE FUNCTION server_time() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '{code}'; END $$"
        );
        backend.database.execute(&function).await;
    };
    let store = open(&[&backend.database.service_url()]).await.unwrap();
    let keys = World::new(fresh().await).await;
    type Told = fn(&StoreError) -> bool;
    let away: Told = |error| matches!(error, StoreError::Unavailable(_));
    let locked: Told = |error| matches!(error, StoreError::Locked(_));
    let unknown: Told = |error| matches!(error, StoreError::OutcomeUnknown(_));
    let damaged: Told = |error| matches!(error, StoreError::Damaged(_));
    let refused: Told = |error| matches!(error, StoreError::Refused(_));
    for (codes, told) in [
        (
            &[
                "40001", "40P01", "53100", "53200", "53300", "55000", "55006", "57014", "58030",
            ][..],
            away,
        ),
        (&["55P03"], locked),
        // The connection is lost while the statement commits.
        (
            &[
                "08006", "25006", "25P02", "40003", "57P01", "57P03", "57P05", "XX000",
            ],
            unknown,
        ),
        (
            &[
                "22021", "22P02", "22P05", "23505", "23514", "54000", "P0001", "XX001",
            ],
            damaged,
        ),
        (
            &[
                "0A000", "26000", "28000", "28P01", "3D000", "3F000", "42501", "42703", "42P01",
                "42P05", "F0000", "ZZ999",
            ],
            refused,
        ),
    ] {
        for code in codes {
            raise(code).await;
            let issued = store.issue(keys.plain_key("42", "default"), &actor()).await;
            let error = issued.unwrap_err();
            assert!(told(&error), "{code}: {error:?}");
        }
    }
    store.close().await;
}

//! The databases of a private server, and the URLs for their users.

use std::net::SocketAddr;

use sqlx::{AssertSqlSafe, Connection};

use super::Postgres;

/// The database of every new server, which is empty.
pub(super) const DATABASE: &str = "keyward";

/// The user of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// `keyward_owner`: owns the databases and can change their schema.
    Owner,
    /// `keyward_service`: has only the rights that the owner grants.
    Service,
    /// `postgres`: has all rights.
    Superuser,
}

impl User {
    /// The role's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "keyward_owner",
            Self::Service => "keyward_service",
            Self::Superuser => "postgres",
        }
    }

    /// The password. It is not secret: only this machine can reach the server, and the server ends
    /// with the test.
    pub(crate) fn password(self) -> &'static str {
        match self {
            Self::Owner => "owner-secret",
            Self::Service => "service-secret",
            Self::Superuser => "superuser-secret",
        }
    }
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    name: String,
    address: SocketAddr,
}

impl Database {
    pub(super) fn new(name: &str, address: SocketAddr) -> Self {
        let name = name.to_owned();
        Self { name, address }
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL for `user`, with the password.
    pub fn url(&self, user: User) -> String {
        self.url_via(user, self.address)
    }

    /// The URL for `user` through a proxy at `address`.
    pub fn url_via(&self, user: User, address: SocketAddr) -> String {
        let (name, password, database) = (user.name(), user.password(), &self.name);
        format!("postgres://{name}:{password}@{address}/{database}")
    }

    /// The URL for the owner.
    pub fn owner_url(&self) -> String {
        self.url(User::Owner)
    }

    /// The URL for the serving role.
    pub fn service_url(&self) -> String {
        self.url(User::Service)
    }

    /// The URL for the superuser.
    pub fn superuser_url(&self) -> String {
        self.url(User::Superuser)
    }

    /// Runs statements as the superuser.
    pub async fn execute(&self, statements: &str) {
        let mut connection = Postgres::connect(&self.superuser_url()).await;
        let done = sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut connection)
            .await;
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
        // Closing cannot lose anything here.
        let _ = connection.close().await;
    }
}

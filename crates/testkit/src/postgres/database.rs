//! The databases of a private server, and the URLs by which its users reach them.

use std::net::SocketAddr;

use sqlx::{AssertSqlSafe, Connection};

use super::Postgres;

/// The database that every server has from the start; empty.
pub(super) const DATABASE: &str = "keyward";

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// `keyward_owner`, who owns the databases and may change their schema.
    Owner,
    /// `keyward_service`, who may log in, and what the owner grants.
    Service,
    /// `postgres`, who may everything.
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

    /// The password, which is no secret: the server is reached from this machine only, and gone
    /// after the test.
    pub(crate) fn password(self) -> &'static str {
        match self {
            Self::Owner => "owner-secret",
            Self::Service => "service-secret",
            Self::Superuser => "superuser-secret",
        }
    }
}

/// A database on a server, and how to reach it.
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

    /// Where the server listens.
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

    /// The URL for `user` through a proxy that listens at `address`.
    pub fn url_via(&self, user: User, address: SocketAddr) -> String {
        let (name, password, database) = (user.name(), user.password(), &self.name);
        format!("postgres://{name}:{password}@{address}/{database}")
    }

    /// The URL for the owner.
    pub fn owner_url(&self) -> String {
        self.url(User::Owner)
    }

    /// The URL for the role that serves.
    pub fn service_url(&self) -> String {
        self.url(User::Service)
    }

    /// The URL for the superuser.
    pub fn superuser_url(&self) -> String {
        self.url(User::Superuser)
    }

    /// Runs statements as the superuser, in one go.
    pub async fn execute(&self, statements: &str) {
        let mut connection = Postgres::connect(&self.superuser_url()).await;
        let done = sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut connection)
            .await;
        done.unwrap_or_else(|error| panic!("{statements}: {error}"));
        // Nothing is open that closing could lose.
        let _ = connection.close().await;
    }
}

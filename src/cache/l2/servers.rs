//! The kinds of Redis deployments, and the commands to each. Every connection is multiplexed: a plain
//! connection whose call was cancelled could give its answer to the next call.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
    TlsCertificates, TlsMode,
};

use super::explain::explain;
use super::link::{CONNECT, is_refusal};
use super::notice_receiver::{NoticeReceiver, PushSink};
use keyward_core::key::SecretText;
use keyward_ops::settings::values::{is_local, secret_file};

/// The largest entry that is read or written, in bytes. It is above the size of every record. Only
/// this much of a larger value is read.
pub(super) const MAX_ENTRY: usize = 32 << 10;
/// The limit of abandoned calls. The callers have shorter limits.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Redis is and how to log in. `Display` hides the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The servers.
    pub nodes: Nodes,
    /// The user; `None` means Redis's default user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretText>,
    /// The file of the password, which is read again for each connection.
    pub password_file: Option<PathBuf>,
    /// The number of the database; 0 for a cluster.
    pub database: i64,
    /// Whether to connect over TLS, where the server must prove its name.
    pub tls: bool,
    /// The PEM file of the trusted authorities; `None` means the system's.
    pub ca: Option<PathBuf>,
    /// The URL without the password.
    pub shown: String,
}

impl Address {
    /// Whether the login has a password.
    pub const fn has_password(&self) -> bool {
        self.password.is_some() || self.password_file.is_some()
    }

    /// The password as it is now.
    fn read_password(&self) -> RedisResult<Option<SecretText>> {
        let Some(file) = &self.password_file else {
            return Ok(self.password.clone());
        };
        let read = secret_file(file).map(|text| Some(SecretText::new(text.as_str().to_owned())));
        read.map_err(|error| {
            let text = format!("{}: {error}; check `redis_password_file`", file.display());
            (
                ErrorKind::InvalidClientConfig,
                "cannot read the password file",
                text,
            )
                .into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Host and port. An IPv6 address has no brackets.
pub type Node = (String, u16);

/// The servers of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// One server.
    Single(Node),
    /// One server on this machine, by the path of its socket.
    Socket(PathBuf),
    /// Sentinels, and the name by which they know the primary.
    Sentinel(Vec<Node>, String),
    /// Some nodes of a cluster; they name the others.
    Cluster(Vec<Node>),
}

impl Nodes {
    /// Whether all named servers are on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Single((host, _)) => is_local(host),
            Self::Socket(_) => true,
            Self::Sentinel(nodes, _) | Self::Cluster(nodes) => {
                nodes.iter().all(|(host, _)| is_local(host))
            }
        }
    }
}

/// Why the servers cannot be connected to, whatever they do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

/// Makes connections.
pub(super) struct Servers {
    address: Address,
    certificates: TlsCertificates,
}

impl Servers {
    pub(super) fn new(address: Address) -> Result<Self, AddressError> {
        let root_cert = match &address.ca {
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                let path = path.display();
                AddressError(format!(
                    "the file {path} of `redis` cannot be read: {error}"
                ))
            })?),
            None => None,
        };
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert,
        };
        address
            .read_password()
            .map_err(|error| AddressError(explain(&error, None)))?;
        Ok(Self {
            address,
            certificates,
        })
    }

    /// An error of these servers for the log, with what to do about it.
    pub(super) fn explain(&self, error: &RedisError) -> String {
        let password = self.address.read_password().ok().flatten();
        explain(error, password.as_ref().map(SecretText::expose))
    }

    /// The longest time to find and reach a server. It allows for other servers that do not answer.
    pub(super) const fn patience(&self) -> Duration {
        match &self.address.nodes {
            Nodes::Single(_) | Nodes::Socket(_) => CONNECT,
            Nodes::Sentinel(..) | Nodes::Cluster(_) => CONNECT.saturating_mul(5),
        }
    }

    /// Connects. With a `receiver`, the connection also receives notices.
    pub(super) async fn connect(
        &self,
        receiver: Option<&Arc<NoticeReceiver>>,
    ) -> RedisResult<Connection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(1_024);
        if let Some(receiver) = receiver {
            config = config.set_push_sender(PushSink(Arc::clone(receiver)));
        }
        let client = match &self.address.nodes {
            Nodes::Cluster(nodes) => return self.cluster(nodes, receiver).await,
            // Asked again for each connection, because the primary may have changed.
            Nodes::Sentinel(nodes, service) => {
                let mut sentinels = self.sentinels(nodes, service)?;
                sentinels.async_get_client().await?
            }
            Nodes::Single(node) => self.client(self.tcp(node))?,
            Nodes::Socket(path) => self.client(ConnectionAddr::Unix(path.clone()))?,
        };
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Connection::One(connection))
    }

    async fn cluster(
        &self,
        nodes: &[Node],
        receiver: Option<&Arc<NoticeReceiver>>,
    ) -> RedisResult<Connection> {
        let nodes = nodes.iter().map(|node| self.info(self.tcp(node)));
        let nodes = nodes.collect::<RedisResult<Vec<_>>>()?;
        let mut builder = ClusterClient::builder(nodes)
            .retries(1)
            .connection_timeout(CONNECT / 4)
            .response_timeout(RESPONSE_TIMEOUT)
            .tcp_settings(tcp_settings())
            .use_protocol(ProtocolVersion::RESP3);
        if self.address.tls {
            let certificates = self.certificates.clone();
            builder = builder.tls(TlsMode::Secure).certs(certificates);
        }
        if let Some(receiver) = receiver {
            builder = builder.push_sender(PushSink(Arc::clone(receiver)));
        }
        let connection = builder.build()?.get_async_connection().await?;
        Ok(Connection::Many(connection))
    }

    fn client(&self, address: ConnectionAddr) -> RedisResult<Client> {
        let info = self.info(address)?;
        match self.address.tls {
            true => Client::build_with_tls(info, self.certificates.clone()),
            false => Client::open(info),
        }
    }

    fn tcp(&self, (host, port): &Node) -> ConnectionAddr {
        match self.address.tls {
            true => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host.clone(), *port),
        }
    }

    fn info(&self, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(self.address.database);
        if let Some(user) = &self.address.user {
            login = login.set_username(user);
        }
        if let Some(password) = self.address.read_password()? {
            login = login.set_password(password.expose());
        }
        let info = address.into_connection_info()?;
        Ok(info
            .set_redis_settings(login)
            .set_tcp_settings(tcp_settings()))
    }

    fn sentinels(&self, nodes: &[Node], service: &str) -> RedisResult<SentinelClient> {
        let nodes = nodes.iter().map(|node| self.tcp(node));
        let mut builder = SentinelClientBuilder::new(nodes, service, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(self.address.database)
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_sentinel_tcp_settings(tcp_settings());
        if self.address.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(self.certificates.clone());
        }
        if let Some(user) = &self.address.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = self.address.read_password()? {
            builder = builder.set_client_to_redis_password(password.expose());
        }
        builder.build()
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Servers({:?})", self.address.nodes)
    }
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(
            socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(2))
                .with_interval(Duration::from_secs(1))
                .with_retries(2),
        )
        .set_user_timeout(Duration::from_secs(2))
}

/// A connection. Each call uses a clone.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Many(ClusterConnection),
}

impl Connection {
    /// Whether it reconnects by itself. Then a broken call does not mean a broken connection.
    pub(super) const fn reconnects_itself(&self) -> bool {
        matches!(self, Self::Many(_))
    }

    pub(super) async fn ping(mut self) -> RedisResult<()> {
        let ping = redis::cmd("PING");
        match &mut self {
            Self::One(one) => ping.query_async(one).await,
            Self::Many(many) => ping.query_async(many).await,
        }
    }

    /// What one server says of itself; `None` for a cluster.
    pub(super) async fn info(mut self) -> RedisResult<Option<String>> {
        match &mut self {
            Self::One(one) => redis::cmd("INFO").query_async(one).await.map(Some),
            Self::Many(_) => Ok(None),
        }
    }

    pub(super) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::One(one) => one.subscribe(channel).await,
            Self::Many(many) => many.subscribe(channel).await,
        }
    }

    /// Reads the values of all names in one round trip. A missing value is empty; a refused read is
    /// `None`. It does not use MGET, which would also read values above the size limit.
    pub(super) async fn read(self, names: Vec<String>) -> RedisResult<Vec<Option<Vec<u8>>>> {
        let mut reads = Vec::with_capacity(names.len());
        for name in &names {
            let mut read = redis::cmd("GETRANGE");
            read.arg(name).arg(0).arg(MAX_ENTRY);
            reads.push(read);
        }
        let found = self.all(reads).await?;
        Ok(found.into_iter().map(RedisResult::ok).collect())
    }

    /// Writes (name, value, lifetime in seconds) in one round trip. Returns the number of successes.
    pub(super) async fn write(self, entries: &[(String, Vec<u8>, u64)]) -> RedisResult<usize> {
        let mut writes = Vec::with_capacity(entries.len());
        for (name, value, seconds) in entries {
            let mut write = redis::cmd("SET");
            write.arg(name).arg(value).arg("EX").arg(*seconds);
            writes.push(write);
        }
        let written = self.all::<redis::Value>(writes).await?;
        Ok(written.iter().filter(|outcome| outcome.is_ok()).count())
    }

    /// Deletes the values of all names in one round trip.
    pub(super) async fn delete(self, names: Vec<String>) -> RedisResult<()> {
        let deletes = names.into_iter().map(|name| {
            let mut delete = redis::cmd("DEL");
            delete.arg(name);
            delete
        });
        self.all::<redis::Value>(deletes.collect()).await.map(drop)
    }

    pub(super) async fn publish(mut self, channel: &str, notice: &[u8]) -> RedisResult<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(notice);
        match &mut self {
            Self::One(one) => publish.query_async(one).await,
            Self::Many(many) => publish.query_async(many).await,
        }
    }

    /// Makes all calls in one round trip, each with its own outcome. In a cluster, each call goes to
    /// the node of its name.
    ///
    /// # Errors
    ///
    /// All calls failed, or the server is not a primary any more.
    async fn all<T: redis::FromRedisValue>(
        self,
        calls: Vec<Cmd>,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let many = self.reconnects_itself();
        let outcomes = self.each(calls).await?;
        let wrong_server = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .find(|error| !many && !is_refusal(error));
        let all_failed = outcomes.iter().all(RedisResult::is_err);
        let first = outcomes.first().and_then(|first| first.as_ref().err());
        match wrong_server.or(first.filter(|_| all_failed)) {
            Some(error) => Err(error.clone()),
            None => Ok(outcomes),
        }
    }

    async fn each<T: redis::FromRedisValue>(
        mut self,
        calls: Vec<Cmd>,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        match &mut self {
            Self::One(one) => {
                let mut pipeline = Pipeline::with_capacity(calls.len());
                for call in calls {
                    pipeline.add_command(call);
                }
                pipeline.ignore_errors().query_async(one).await
            }
            Self::Many(many) => {
                let calls = calls.into_iter().map(|call| {
                    let mut many = many.clone();
                    async move { call.query_async(&mut many).await }
                });
                Ok(join_all(calls).await)
            }
        }
    }
}

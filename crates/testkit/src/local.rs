//! Keyward in the test process, on the test's runtime, with dependencies of the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward::app::{App, Parts};
use keyward::config::{Inputs, Listen, Settings, Store, load};
use keyward_core::key::Prefix;
use keyward_crypto::{ImportSecret, keyring_files};
use keyward_store::Intercepted;

use super::{Client, Faults, ManualClock};

/// A running service and its directory.
pub struct Local {
    /// The service.
    pub app: App,
    /// The clock of the service.
    pub clock: Arc<ManualClock>,
    /// The data directory, removed at the end.
    pub directory: tempfile::TempDir,
    /// The first token, with every role.
    pub token: String,
}

/// Settings of a service in `directory`, on free ports, with the minimum of `max_staleness`.
pub fn settings_in(directory: &Path) -> Settings {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Settings {
        listen: Listen::Tcp(any),
        rest_listen: Some(any),
        http_listen: Some(any),
        data_dir: directory.to_path_buf(),
        store: Store::Sqlite(directory.join("keyward.db")),
        max_staleness: Duration::from_secs(2),
        near_max_staleness: Duration::from_millis(1_900),
        max_near_caches: 1_000,
        key_prefixes: vec![Prefix::new("kw").expect("kw is a prefix")],
        use_interval: Duration::from_secs(60),
        webhook_timeout: Duration::from_secs(2),
        expiry_notice: Duration::from_secs(7 * 24 * 3_600),
        keyring: directory.join("keyring"),
        workers: 2,
        max_connections: 1_000,
        max_buffered_bytes: 64 << 20,
        max_cached_bytes: 16 << 20,
        ..Settings::default()
    }
}

impl Local {
    /// Starts with the settings of [`settings_in`].
    pub async fn start() -> Self {
        Self::start_with(|_| {}, |store| store).await
    }

    /// Starts with settings modified by `change` and a store wrapped by `around_store`.
    pub async fn start_with(
        change: impl FnOnce(&mut Settings),
        around_store: impl FnOnce(Arc<dyn keyward_store::Store>) -> Arc<dyn keyward_store::Store>
        + Send
        + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut settings = settings_in(directory.path());
        change(&mut settings);
        let parts = Parts {
            around_store: Box::new(around_store),
            ..Parts::system()
        };
        let (app, clock) = run(&settings, parts).await;
        let token = token_in(directory.path());
        Self {
            app,
            clock,
            directory,
            token,
        }
    }

    /// Starts with settings modified by `change`. The returned faults can stall the store.
    pub async fn start_stalling(change: impl FnOnce(&mut Settings)) -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        let handle = Arc::clone(&faults);
        let stall =
            |store| Arc::new(Intercepted::new(store, handle)) as Arc<dyn keyward_store::Store>;
        let local = Self::start_with(change, stall).await;
        (local, faults)
    }

    /// Starts one more instance on the Postgres at the URL `store`, next to the instances with this
    /// keyring and token.
    pub async fn start_on_postgres(
        store: &str,
        keyring: &Path,
        token: &str,
        max_staleness: Duration,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        let staleness = format!("{}ms", max_staleness.as_millis());
        let flags = [
            ("listen", "127.0.0.1:0".to_owned()),
            ("rest_listen", "127.0.0.1:0".to_owned()),
            ("http_listen", "127.0.0.1:0".to_owned()),
            ("data_dir", text(directory.path())),
            ("store", store.to_owned()),
            ("keyring", text(keyring)),
            ("max_staleness", staleness),
            ("workers", "2".to_owned()),
            ("foreign_formats", "uuid".to_owned()),
        ];
        let inputs = Inputs {
            flags: flags.map(|(name, value)| (name.to_owned(), value)).into(),
            default_file: directory.path().join("keyward.toml"),
            ..Inputs::default()
        };
        let settings = load(inputs).expect("the settings are right").settings;
        let (app, clock) = run(&settings, Parts::system()).await;
        Self {
            app,
            clock,
            directory,
            token: token.to_owned(),
        }
    }

    /// Stops the service and starts it again on its directory, with a new clock.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// Restarts with settings modified by `change`.
    pub async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.app.stop().await;
        let mut settings = settings_in(self.directory.path());
        change(&mut settings);
        let (app, clock) = run(&settings, Parts::system()).await;
        Self { app, clock, ..self }
    }

    /// Adds the [`IMPORT_SECRETS`](crate::IMPORT_SECRETS) to the keyring, and starts the service again with
    /// settings modified by `change`.
    pub async fn restart_with_import_secrets(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.app.stop().await;
        let mut settings = settings_in(self.directory.path());
        change(&mut settings);
        add_import_secrets(&settings.keyring);
        let (app, clock) = run(&settings, Parts::system()).await;
        Self { app, clock, ..self }
    }

    /// A client with every role.
    pub async fn client(&self) -> Client {
        Client::new(self.app.grpc_address(), Some(&self.token)).await
    }

    /// A client with these roles only.
    pub async fn client_as(&self, roles: &[keyward_proto::v1::Role]) -> Client {
        let token = self
            .client()
            .await
            .token("test", roles)
            .await
            .expect("a token is made");
        Client::new(self.app.grpc_address(), Some(&token)).await
    }

    /// A connection to the database, for manual changes.
    pub fn database(&self) -> std::path::PathBuf {
        self.directory.path().join("keyward.db")
    }
}

/// Adds the import secrets to a keyring.
pub(crate) fn add_import_secrets(keyring: &Path) {
    for secret in crate::IMPORT_SECRETS {
        let secret = ImportSecret::new(secret).expect("a short secret");
        keyring_files::add_import_secret(keyring, None, &secret)
            .expect("the keyring takes a secret");
    }
}

/// Starts a service with a new clock that the test controls.
async fn run(settings: &Settings, parts: Parts) -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let parts = Parts {
        clock: Arc::<ManualClock>::clone(&clock),
        ..parts
    };
    let app = App::start(settings, parts).await;
    (app.expect("the service starts"), clock)
}

/// The first token of the service in `directory`.
pub(crate) fn token_in(directory: &Path) -> String {
    let text = std::fs::read_to_string(directory.join("admin.token"));
    text.expect("the first start wrote admin.token")
        .trim_end()
        .to_owned()
}

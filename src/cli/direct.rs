//! The commands that this process executes itself instead of calling a service: serving, and the
//! verbs that open the store or the keyring. The command line knows no store; `main` provides the
//! implementation.

use std::path::Path;

use super::Failure;
use super::args::{Direct, EpochVerb, KeyringVerb};
use crate::config::{Settings, Store};

/// Commands that this process executes itself. Each returns the lines to print, without the last
/// line end, or an error text that says what to do. Neither holds a secret.
pub trait LocalCommands {
    /// Serves until a signal stops the service.
    ///
    /// # Errors
    ///
    /// If the service does not start or does not stop cleanly.
    fn serve(&self, settings: Settings) -> Result<(), String>;

    /// Brings the schema of the store up to date, and grants `service_role` the rights that a service
    /// needs. Idempotent. Never called for the embedded store.
    ///
    /// # Errors
    ///
    /// If the schema is not the one that this version needs.
    fn migrate(&self, settings: &Settings, service_role: Option<&str>) -> Result<String, String>;

    /// Migrates, creates the keyring, and writes a new token with every role to `token_file` (`None`:
    /// `admin.token` in `data_dir`). A store that has both already is an error, unless `if_new` is
    /// set. Never called for the embedded store.
    ///
    /// # Errors
    ///
    /// If a step fails. An existing keyring or token file is never overwritten.
    fn init(
        &self,
        settings: &Settings,
        service_role: Option<&str>,
        token_file: Option<&Path>,
        if_new: bool,
    ) -> Result<String, String>;

    /// Begins a new epoch, so that instances which refused a log without its last changes serve
    /// again. `reason` has 1 to 500 bytes and no control characters. Never called for the embedded
    /// store.
    ///
    /// # Errors
    ///
    /// If the epoch did not advance.
    fn advance_epoch(&self, settings: &Settings, reason: &str) -> Result<String, String>;

    /// Adds a new version of the cache key to the keyring.
    ///
    /// # Errors
    ///
    /// If the keyring did not change.
    fn add_cache_key(&self, settings: &Settings) -> Result<String, String>;
}

/// Executes the verb. Returns the output.
pub(super) fn run(
    verb: &Direct,
    settings: &Settings,
    local: &dyn LocalCommands,
) -> Result<String, Failure> {
    if let Store::Sqlite(_) = settings.store
        && let Some(reason) = needless_for_embedded(verb)
    {
        return Err(Failure::Usage(reason));
    }
    let text = match verb {
        Direct::Migrate(args) => local.migrate(settings, args.service_role.as_deref()),
        Direct::Init(args) => local.init(
            settings,
            args.migrate.service_role.as_deref(),
            args.token_file.as_deref(),
            args.if_new,
        ),
        Direct::Epoch(args) => match &args.verb {
            EpochVerb::Advance(args) => local.advance_epoch(settings, &args.reason),
        },
        Direct::Keyring(args) => match &args.verb {
            KeyringVerb::Cache => local.add_cache_key(settings),
        },
    };
    text.map(|text| text + "\n").map_err(Failure::Failed)
}

/// Why the embedded store does not need the verb, if it does not.
fn needless_for_embedded(verb: &Direct) -> Option<String> {
    let (name, instead) = match verb {
        Direct::Migrate(_) => ("migrate", "updates its schema at each start"),
        Direct::Init(_) => (
            "init",
            "creates its keyring and its first token at the first start",
        ),
        Direct::Epoch(_) => ("epoch advance", "begins a new epoch at each start"),
        Direct::Keyring(_) => return None,
    };
    Some(format!(
        "the embedded store {instead}, so it does not need `keyward {name}`: for a Postgres store, \
         set `store`, such as --store postgres://USER@HOST/DATABASE"
    ))
}

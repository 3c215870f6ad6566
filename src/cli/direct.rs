//! What is done on this machine instead of by a service that is called: serving, and the verbs that
//! go straight to the store. The command line knows no store; whoever starts it brings one along.

use std::path::Path;

use super::Failure;
use super::args::{Direct, EpochVerb, KeyringVerb};
use crate::config::{Settings, Store};

/// What the command line does on this machine. An error is one sentence that says what to do; what
/// is answered otherwise is printed: lines, without the end of the last one, and never a secret.
pub trait Operations {
    /// Serves until the service is told to stop.
    ///
    /// # Errors
    ///
    /// Why it did not start, or did not end in order.
    fn serve(&self, settings: Settings) -> Result<(), String>;

    /// Brings the schema of the store up to date and grants `service_role` what a service needs;
    /// does nothing the second time. Never called for the embedded store.
    ///
    /// # Errors
    ///
    /// Why the schema is not the one that this version needs.
    fn migrate(&self, settings: &Settings, service_role: Option<&str>) -> Result<String, String>;

    /// Migrates, and makes the keyring and a token with every role, which is written to
    /// `token_file` (`None`: `admin.token` in `data_dir`). A store that has both is an error, or with
    /// `if_new` none. Never called for the embedded store.
    ///
    /// # Errors
    ///
    /// Why it is not done; a keyring or a token file that is there is not overwritten.
    fn init(
        &self,
        settings: &Settings,
        service_role: Option<&str>,
        token_file: Option<&Path>,
        if_new: bool,
    ) -> Result<String, String>;

    /// Begins a new epoch, so that instances that refused a log without its tail serve again.
    /// `reason` has 1 to 500 bytes and no control characters. Never called for the embedded store.
    ///
    /// # Errors
    ///
    /// Why the epoch is still the old one.
    fn advance_epoch(&self, settings: &Settings, reason: &str) -> Result<String, String>;

    /// Adds a new version of the cache key to the keyring.
    ///
    /// # Errors
    ///
    /// Why the keyring is still as it was.
    fn add_cache_key(&self, settings: &Settings) -> Result<String, String>;
}

/// Does it; answers what to print.
pub(super) fn run(
    verb: &Direct,
    settings: &Settings,
    operations: &dyn Operations,
) -> Result<String, Failure> {
    if let Store::Sqlite(_) = settings.store
        && let Some(why) = by_itself(verb)
    {
        return Err(Failure::Usage(why));
    }
    let text = match verb {
        Direct::Migrate(args) => operations.migrate(settings, args.service_role.as_deref()),
        Direct::Init(args) => operations.init(
            settings,
            args.migrate.service_role.as_deref(),
            args.token_file.as_deref(),
            args.if_new,
        ),
        Direct::Epoch(args) => match &args.verb {
            EpochVerb::Advance(args) => operations.advance_epoch(settings, &args.reason),
        },
        Direct::Keyring(args) => match &args.verb {
            KeyringVerb::Cache => operations.add_cache_key(settings),
        },
    };
    text.map(|text| text + "\n").map_err(Failure::Failed)
}

/// Why the embedded store needs no such verb, if it does not.
fn by_itself(verb: &Direct) -> Option<String> {
    let (name, does) = match verb {
        Direct::Migrate(_) => (
            "migrate",
            "brings its schema up to date by itself at each start",
        ),
        Direct::Init(_) => (
            "init",
            "makes its keyring and its first token by itself at the first start",
        ),
        Direct::Epoch(_) => (
            "epoch advance",
            "begins a new epoch by itself at each start",
        ),
        Direct::Keyring(_) => return None,
    };
    Some(format!(
        "the embedded store {does}: `keyward {name}` is for another one, which the setting `store` \
         names, such as --store postgres://USER@HOST/DATABASE"
    ))
}

//! A key: its text form, id, fields, record and verdict, and the ports for time and randomness.

mod fields;
mod foreign;
mod id;
mod ports;
mod record;
mod san;
mod secret;
mod text;
mod usage;
mod verdict;

pub use fields::{
    AccountId, FieldError, MAX_GRACE, MAX_TTL, Metadata, Networks, Reason, Scopes, SlotName, shown,
};
pub use foreign::ForeignFormat;
pub use id::{BatchId, KeyId};
pub use ports::{BootTime, Clock, Entropy, Timestamp};
pub use record::{Hint, KeyRecord, KeyState, Role, Roles, TokenRecord};
pub use san::San;
pub use secret::SecretText;
pub use text::{
    BODY_LEN, Body, Malformed, Prefix, PrefixError, RANDOM_LEN, TAG_LEN, TOKEN_PREFIX, TextForm,
};
pub use usage::KeyUse;
pub use verdict::Verdict;

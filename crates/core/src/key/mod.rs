//! What a key is: its text form, its id, its record and its verdict. Pure: no I/O, no async;
//! the clock and the source of randomness are passed in.

mod fields;
mod id;
mod ports;
mod record;
mod secret;
mod text;
mod verdict;

pub use fields::{
    AccountId, FieldError, MAX_GRACE, MAX_TTL, Metadata, Networks, Reason, Scopes, SlotName, shown,
};
pub use id::KeyId;
pub use ports::{BootTime, Clock, Entropy, Timestamp};
pub use record::{Hint, KeyRecord, KeyState, Role, Roles, TokenRecord};
pub use secret::SecretText;
pub use text::{
    BODY_LEN, Body, Malformed, Prefix, PrefixError, RANDOM_LEN, TAG_LEN, TOKEN_PREFIX, TextForm,
};
pub use verdict::Verdict;

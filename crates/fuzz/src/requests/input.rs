//! The calls of an input, and the names that it has for what the service draws at random.

use prost::Message;

use crate::world::METHODS;

/// An input names these keys by [`text_marker`] and [`id_marker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A key in use.
    Live,
    /// A revoked key.
    Revoked,
    /// A disabled key.
    Disabled,
    /// A key of another deployment; as an id, the id of the reader's token.
    Foreign,
    /// The last key that the input created.
    Newest,
}

pub(super) const NAMED: [Named; 5] = [
    Named::Live,
    Named::Revoked,
    Named::Disabled,
    Named::Foreign,
    Named::Newest,
];

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A caller with every role.
    Every,
    /// A caller without a token.
    Nobody,
    /// A caller with the role `reader`.
    Reader,
    /// A caller with a revoked token of every role.
    Former,
}

pub(super) const CALLERS: [Caller; 4] = [
    Caller::Every,
    Caller::Nobody,
    Caller::Reader,
    Caller::Former,
];

/// As long as a key.
pub fn text_marker(named: Named) -> String {
    format!("kw_MARKER{}{}", named as u8, "x".repeat(42))
}

/// As long as an id, and like one.
pub fn id_marker(named: Named) -> String {
    format!("00000000-0000-7000-8000-00000000000{}", named as u8)
}

/// One call of an input: the caller and the RPC, the length of the message, the message.
pub fn call(caller: Caller, method: &str, message: &impl Message) -> Vec<u8> {
    let method = METHODS.iter().position(|known| known.ends_with(method));
    let kind = caller as usize * METHODS.len() + method.expect("an RPC");
    let bytes = message.encode_to_vec();
    let length = u16::try_from(bytes.len()).expect("a message is short");
    let mut call = vec![u8::try_from(kind).expect("there are few")];
    call.extend_from_slice(&length.to_le_bytes());
    call.extend_from_slice(&bytes);
    call
}

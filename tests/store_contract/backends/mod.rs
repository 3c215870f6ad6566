//! The backends that the contract is proven on.

pub(crate) mod sqlite;

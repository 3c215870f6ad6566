//! The backends that the contract is proven on.

pub(crate) mod postgres;
pub(crate) mod sqlite;

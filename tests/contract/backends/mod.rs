//! The backends on which the contract is tested.

pub(crate) mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

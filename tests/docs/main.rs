//! The documentation is true, and the source keeps the rules that neither Cargo nor a lint enforces.
#![cfg(test)]

mod architecture;
mod readme;
mod references;

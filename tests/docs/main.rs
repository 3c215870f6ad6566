//! Checks the documentation against the code, and the rules that neither Cargo nor a lint enforces.
#![cfg(test)]

mod architecture;
mod readme;
mod references;

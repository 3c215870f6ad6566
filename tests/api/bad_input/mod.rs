//! Bad input through gRPC: a clear error, and no acknowledged change is lost.

mod callers;
mod clock;
mod crowds;
mod fields;
mod keys;
mod leavers;
mod pages;
mod wire;

use std::path::Path;

use keyward_testkit::requests::*;
use keyward_testkit::{Client, Local};

use crate::start;

//! A real server process without nodes, and what is done to it from outside: looking back, saving, restoring, looking
//! inside, ending it.
//!
//! Needs the built binary: run by `cargo xtask test api`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may")]

mod ending;
mod etcd;
mod history;
mod snapshot;
mod support;

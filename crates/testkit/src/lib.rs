//! Clusters for tests: whole server processes, and cases that share one.

pub mod cases;
pub mod process;

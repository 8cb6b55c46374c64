//! A file per verb, or per family of small ones.

pub mod about;
pub mod create;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod drain;
pub mod edit;
pub mod exec;
pub mod get;
pub mod logs;
pub mod rollout;
pub mod run;
pub mod wait;
pub mod why;

//! A file per verb, or per family of small ones.

pub mod about;
pub mod autoscale;
pub mod certificate;
pub mod change;
pub mod cp;
pub mod create;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod drain;
pub mod edit;
pub mod editor;
pub mod events;
pub mod exec;
pub mod explain;
pub mod get;
pub mod logs;
pub mod port_forward;
pub mod rollout;
pub mod run;
pub mod set;
pub mod taint;
pub mod top;
pub mod wait;
pub mod why;

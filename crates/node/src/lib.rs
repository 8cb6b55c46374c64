//! The node agent.
#![allow(dead_code, reason = "under construction")]
mod make;
pub mod os;
mod pod;

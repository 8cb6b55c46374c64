//! The node agent.
#![allow(dead_code, reason = "under construction")]
mod make;
mod pod;

//! Whole clusters in a simulated world.
#![allow(clippy::unwrap_used)]

mod cost;
mod custom;
mod loss;
mod rollout;
mod support;

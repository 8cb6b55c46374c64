//! Whole clusters in a simulated world.

mod cost;
mod custom;
mod rollout;
mod support;

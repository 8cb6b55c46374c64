//! Whole clusters in a simulated world.

mod cost;
mod rollout;
mod support;

//! Whole clusters in a simulated world.

mod cost;
mod custom;
mod loss;
mod rollout;
mod support;

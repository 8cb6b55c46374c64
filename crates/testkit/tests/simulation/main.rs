//! Whole clusters in a simulated world.
#![allow(clippy::unwrap_used)]

mod apps;
mod cost;
mod custom;
mod devices;
mod faults;
mod healing;
mod loss;
mod rollout;
mod scheduling;
mod services;
mod support;

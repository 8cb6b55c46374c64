//! Whole clusters in a simulated world.
#![allow(clippy::unwrap_used)]

mod apps;
mod bad_input;
mod cost;
mod custom;
mod devices;
mod extenders;
mod faults;
mod healing;
mod loss;
mod rollout;
mod scheduling;
mod services;
mod support;

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

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

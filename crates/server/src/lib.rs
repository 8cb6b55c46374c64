//! The API server: one pipeline for every kind.
//!
//! Authentication, authorization, admission, the resource pipeline and the store, in this order, for requests over
//! HTTPS and from components of the same process alike.

pub mod auth;
pub mod chain;
pub mod config;
pub mod openapi;
pub mod pki;
mod proxy;

pub use config::ServerConfig;

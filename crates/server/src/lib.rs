//! The API server: one pipeline for every kind.
//!
//! Authentication, authorization, admission, the resource pipeline and the store, in this order, for requests over
//! HTTPS and from components of the same process alike.

pub mod admission;
pub mod api;
pub mod audit;
pub mod auth;
mod backend;
mod bootstrap;
mod cache;
mod call;
pub mod chain;
pub mod config;
mod config_file;
mod conversion;
mod deadline;
mod definitions;
pub mod encryption;
pub mod error;
mod flow;
mod gate;
mod health;
mod identity;
pub mod listen;
mod live;
mod metadata;
mod metrics;
pub mod openapi;
mod paths;
pub mod pki;
mod policies;
mod proxy;
mod request;
mod resource;
mod respond;
mod select;
mod servers;
pub mod snapshot;
mod tokens;
mod tree;
mod verbs;
mod view;
mod webhooks;
mod write;

pub use api::Api;
pub use config::ServerConfig;
pub use error::ServerError;
pub use listen::Server;
pub use live::Live;

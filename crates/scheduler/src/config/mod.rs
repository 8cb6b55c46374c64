//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`), as upstream reads it from a file.

mod args;
mod extenders;
mod file;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;
use skiff_meta::WorldRef;

use crate::extender::Extender;
use crate::profile::Profile;
use crate::queue::Pauses;

/// What a scheduler is told.
pub struct Config {
    /// Its profiles, by the names that pods ask for.
    pub profiles: Vec<Profile>,
    /// How long pods pause after failures.
    pub pauses: Pauses,
    /// How long volumes have to be bound.
    pub volume_timeout: Duration,
    /// Who else is asked.
    pub extenders: Vec<Extender>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            pauses: Pauses::default(),
            volume_timeout: Duration::from_secs(600),
            extenders: Vec::new(),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is neither YAML nor JSON.
    #[error("{0}")]
    Syntax(String),
    /// It is something else.
    #[error("no KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, but {kind} of {version}")]
    Kind {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// A field is unknown or has the wrong type.
    #[error("{place}: {source}")]
    Field {
        /// Where.
        place: String,
        /// What.
        source: serde_json::Error,
    },
    /// A value that makes no sense.
    #[error("{place}: {why}")]
    Value {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
}

impl ConfigError {
    fn value(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Value { place: place.into(), why: why.into() }
    }
}

impl Config {
    /// Reads a configuration, with the certificates of extenders; these will be asked in this world.
    ///
    /// # Errors
    /// When it is none, or says what cannot be done.
    pub fn read(text: &str, world: &WorldRef) -> Result<Self, ConfigError> {
        let decoded =
            skiff_meta::codec::yaml::decode(text.as_bytes()).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        Self::of(decoded.value, world)
    }

    fn of(value: Value, world: &WorldRef) -> Result<Self, ConfigError> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        if kind != "KubeSchedulerConfiguration" || version != "kubescheduler.config.k8s.io/v1" {
            return Err(ConfigError::Kind { kind, version });
        }
        let file: file::File = serde_json::from_value(value)
            .map_err(|source| ConfigError::Field { place: "KubeSchedulerConfiguration".to_owned(), source })?;
        file.config(world)
    }
}

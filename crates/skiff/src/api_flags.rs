//! Flags of the API server that upstream has as well, under its names.

use std::time::Duration;

use clap::{ArgAction, Args};
use skiff_server::ServerConfig;

use crate::error::StartError;

/// What stands around the API.
#[derive(Args)]
pub(crate) struct ApiFlags {
    /// Reads answered at the same time; with the writes: the seats that priority levels share
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: u32,
    /// Writes answered at the same time
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: u32,
    /// Let requests queue fairly, by FlowSchemas and PriorityLevelConfigurations
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    enable_priority_and_fairness: bool,
    /// How long a request may take that is no watch and no connection to a pod
    #[arg(long, default_value = "1m")]
    request_timeout: String,
}

impl ApiFlags {
    /// Puts what was said into the server's configuration.
    pub(crate) fn apply(&self, config: &mut ServerConfig) -> Result<(), StartError> {
        config.max_in_flight = (self.max_requests_inflight, self.max_mutating_requests_inflight);
        config.priority_and_fairness = self.enable_priority_and_fairness;
        config.request_timeout = time("request-timeout", &self.request_timeout)?;
        if config.max_in_flight.0.checked_add(config.max_in_flight.1).is_none_or(|sum| sum == 0) {
            let value = format!("{} and {}", config.max_in_flight.0, config.max_in_flight.1);
            let why = "are together no number of requests a server can answer at once".to_owned();
            return Err(StartError::Flag { flag: "max-requests-inflight", value, why });
        }
        Ok(())
    }
}

fn time(flag: &'static str, text: &str) -> Result<Duration, StartError> {
    let time = skiff_meta::duration::parse(text).filter(|time| !time.is_zero());
    let why = || "is no length of time, such as 30s, 1m or 2h".to_owned();
    time.ok_or_else(|| StartError::Flag { flag, value: text.to_owned(), why: why() })
}

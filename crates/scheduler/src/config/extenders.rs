//! `extenders`: who else is asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use serde::Deserialize;
use skiff_client::config::Remote;
use skiff_client::http::HttpBackend;
use skiff_meta::{WorldRef, names};

use super::ConfigError;
use crate::extender::{Extender, Settings};
use crate::plugins::is_extended;

/// How long an answer may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ExtenderArgs {
    url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    prioritize_verb: String,
    weight: i64,
    bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<TlsArgs>,
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<ManagedArgs>,
    ignorable: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct TlsArgs {
    insecure: bool,
    server_name: String,
    cert_file: String,
    key_file: String,
    ca_file: String,
    cert_data: String,
    key_data: String,
    ca_data: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ManagedArgs {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// PEM that is given as it is, in base64, or as the name of a file.
fn pem(place: &str, data: &str, file: &str) -> Result<Vec<u8>, ConfigError> {
    if !data.is_empty() {
        return BASE64_STANDARD.decode(data).map_err(|error| ConfigError::value(place, error.to_string()));
    }
    if file.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::read(file).map_err(|error| ConfigError::value(place, format!("{file}: {error}")))
}

/// The resources that extenders look after instead of NodeResourcesFit.
pub(super) fn ignored(all: &[ExtenderArgs]) -> Vec<String> {
    let managed = all.iter().flat_map(|extender| &extender.managed_resources);
    managed.filter(|resource| resource.ignored_by_scheduler).map(|resource| resource.name.clone()).collect()
}

/// The extenders that are asked for.
pub(super) fn extenders(all: Vec<ExtenderArgs>, world: &WorldRef) -> Result<Vec<Extender>, ConfigError> {
    let binders = all.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let why = format!("found {binders} extenders implementing bind: only one extender can implement bind");
        return Err(ConfigError::value("extenders", why));
    }
    let mut managed = BTreeSet::new();
    let numbered = all.into_iter().enumerate();
    numbered.map(|(number, args)| args.extender(&format!("extenders[{number}]"), &mut managed, world)).collect()
}

impl ExtenderArgs {
    fn extender(self, place: &str, managed: &mut BTreeSet<String>, world: &WorldRef) -> Result<Extender, ConfigError> {
        if !self.prioritize_verb.is_empty() && self.weight <= 0 {
            return Err(ConfigError::value(format!("{place}.weight"), "must have a positive weight applied to it"));
        }
        for (number, resource) in self.managed_resources.iter().enumerate() {
            let place = format!("{place}.managedResources[{number}].name");
            if let Some(fault) = names::qualified_name(&resource.name).into_iter().next() {
                return Err(ConfigError::value(place, fault));
            }
            if !is_extended(&resource.name) {
                return Err(ConfigError::value(place, "is an invalid extended resource name"));
            }
            if !managed.insert(resource.name.clone()) {
                return Err(ConfigError::value(place, "duplicate extender managed resource name"));
            }
        }
        let timeout = match self.http_timeout.as_deref() {
            None => TIMEOUT,
            Some(text) => {
                let parsed = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
                let why = || ConfigError::value(format!("{place}.httpTimeout"), format!("{text:?} is no duration"));
                parsed.map(|time| if time.is_zero() { TIMEOUT } else { time }).ok_or_else(why)?
            }
        };
        let settings = Settings {
            url: self.url_prefix.clone(),
            filter: self.filter_verb.clone(),
            prioritize: self.prioritize_verb.clone(),
            preempt: self.preempt_verb.clone(),
            bind: self.bind_verb.clone(),
            weight: self.weight,
            knows_nodes: self.node_cache_capable,
            resources: self.managed_resources.iter().map(|resource| resource.name.clone()).collect(),
            is_ignorable: self.ignorable,
            timeout,
        };
        let remote = self.remote(&format!("{place}.tlsConfig"))?;
        let backend = HttpBackend::new(remote, world.clone(), "kube-scheduler");
        let backend = backend.map_err(|error| ConfigError::value(place, error.to_string()))?;
        Ok(Extender::new(settings, Arc::new(backend), world.clone()))
    }

    fn remote(&self, place: &str) -> Result<Remote, ConfigError> {
        let tls = self.tls_config.clone().unwrap_or_default();
        let certificate_authority = pem(&format!("{place}.caFile"), &tls.ca_data, &tls.ca_file)?;
        Ok(Remote {
            server: self.url_prefix.clone(),
            // As upstream has it: who asks for HTTPS and names no authority trusts anyone.
            insecure: tls.insecure || (self.enable_https && certificate_authority.is_empty()),
            certificate_authority,
            tls_server_name: Some(tls.server_name).filter(|name| !name.is_empty()),
            client_certificate: pem(&format!("{place}.certFile"), &tls.cert_data, &tls.cert_file)?,
            client_key: pem(&format!("{place}.keyFile"), &tls.key_data, &tls.key_file)?,
            ..Remote::default()
        })
    }
}

//! A container's variables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use skiff_api::resources::ResourceList;

use super::expand::expand;
use super::fields::{self, Addresses};
use super::{ConfigError, Referenced};
use crate::pod::facts;

/// What variables may refer to.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) referenced: &'a Referenced,
    pub(crate) addresses: &'a Addresses,
    pub(crate) allocatable: &'a ResourceList,
    /// See [`super::services::variables`].
    pub(crate) services: &'a [(String, String)],
}

/// Variables in the order of their declaration: whole maps first, single ones next, Services last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.names.push(name);
        }
    }
    /// A variable's value.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }
    /// All of them.
    pub(crate) fn into_pairs(mut self) -> Vec<(String, String)> {
        let take = |name: String| self.values.remove(&name).map(|value| (name, value));
        self.names.into_iter().filter_map(take).collect()
    }
}

/// The variables of `container`.
pub(crate) fn environment(sources: &Sources<'_>, container: &Container) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let map = sources.referenced.config_maps.get(&reference.name);
            if map.is_none() && reference.optional != Some(true) {
                return Err(ConfigError::NoConfigMap(reference.name.clone()));
            }
            for (key, value) in map.iter().flat_map(|map| map.data.iter().flatten()) {
                environment.set(format!("{prefix}{key}"), value.clone());
            }
        } else if let Some(reference) = &from.secret_ref {
            let secret = sources.referenced.secrets.get(&reference.name);
            if secret.is_none() && reference.optional != Some(true) {
                return Err(ConfigError::NoSecret(reference.name.clone()));
            }
            for (key, value) in secret.iter().flat_map(|secret| secret.data.iter().flatten()) {
                environment.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    let service = |name: &str| sources.services.iter().rev().find(|(key, _)| key == name).map(|(_, v)| v.clone());
    for variable in container.env.iter().flatten() {
        let text = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            Some(source) if text.is_empty() => match resolve(sources, container, source)? {
                Some(value) => value,
                None => continue,
            },
            _ => expand(text, |name| environment.get(name).or_else(|| service(name))),
        };
        environment.set(variable.name.clone(), value);
    }
    for (name, value) in sources.services {
        if !environment.values.contains_key(name) {
            environment.set(name.clone(), value.clone());
        }
    }
    Ok(environment)
}

/// `None` when what is referred to is missing and may be.
fn resolve(sources: &Sources<'_>, container: &Container, source: &EnvVarSource) -> Result<Option<String>, ConfigError> {
    let namespace = || facts::namespace(sources.pod).to_owned();
    if let Some(field) = &source.field_ref {
        return fields::field(sources.pod, &field.field_path, sources.addresses).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(sources.pod, Some(container), selector, sources.allocatable).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = sources.referenced.config_maps.get(&selector.name) else {
            return if optional { Ok(None) } else { Err(ConfigError::NoConfigMap(selector.name.clone())) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&selector.key)).cloned();
        if value.is_none() && !optional {
            let (name, key) = (selector.name.clone(), selector.key.clone());
            return Err(ConfigError::NoConfigMapKey { namespace: namespace(), name, key });
        }
        return Ok(value);
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = sources.referenced.secrets.get(&selector.name) else {
            return if optional { Ok(None) } else { Err(ConfigError::NoSecret(selector.name.clone())) };
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&selector.key));
        if value.is_none() && !optional {
            let (name, key) = (selector.name.clone(), selector.key.clone());
            return Err(ConfigError::NoSecretKey { namespace: namespace(), name, key });
        }
        return Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()));
    }
    Ok(Some(String::new()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};

    fn referenced() -> Referenced {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("a config map");
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "aGk="}})).expect("a secret");
        Referenced {
            config_maps: [("m".to_owned(), Arc::new(map))].into(),
            secrets: [("s".to_owned(), Arc::new(secret))].into(),
        }
    }

    fn variables(container: Value) -> Result<Vec<String>, ConfigError> {
        let container: Container = serde_json::from_value(container).expect("a container");
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).expect("a pod");
        let sources = Sources {
            pod: &pod,
            referenced: &referenced(),
            addresses: &Addresses { pod: vec!["10.0.0.1".into()], host: vec![] },
            allocatable: &ResourceList::new(),
            services: &[("WEB_SERVICE_HOST".to_owned(), "10.43.0.1".to_owned())],
        };
        let pairs = environment(&sources, &container)?.into_pairs();
        Ok(pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn all_sources_in_order() {
        let told = variables(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "X_"}, {"secretRef": {"name": "s"}},
                {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "ONE", "value": "$(X_a)-$(WEB_SERVICE_HOST)-$(LATER)"},
                {"name": "LATER", "value": "l"},
                {"name": "X_b", "value": "own"},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "b"}}},
                {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none", "optional": true}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "EMPTY"}]}));
        let expected = [
            "X_a=1",
            "X_b=own",
            "s=hi",
            "ONE=1-10.43.0.1-$(LATER)",
            "LATER=l",
            "KEY=2",
            "IP=10.0.0.1",
            "EMPTY=",
            "WEB_SERVICE_HOST=10.43.0.1",
        ];
        assert_eq!(told.expect("variables"), expected);
    }

    #[test]
    fn what_is_missing_is_told() {
        let error = |env: Value| {
            variables(json!({"name": "c", "env": [{"name": "A", "valueFrom": env}]})).expect_err("an error").to_string()
        };
        assert_eq!(error(json!({"configMapKeyRef": {"name": "none", "key": "k"}})), "configmap \"none\" not found");
        assert_eq!(error(json!({"secretKeyRef": {"name": "s", "key": "k"}})), "couldn't find key k in Secret n/s");
    }
}

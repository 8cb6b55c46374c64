//! The containers of a pod, of all three sorts, seen alike.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, PodSpec};

/// The environment of one container.
pub(crate) struct Environment<'a> {
    /// `envFrom`
    pub(crate) from: &'a [EnvFromSource],
    /// `env`
    pub(crate) variables: &'a [EnvVar],
}

/// The environments of all containers: init, ordinary, ephemeral.
pub(crate) fn environments(spec: &PodSpec) -> impl Iterator<Item = Environment<'_>> {
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ordinary = ordinary.map(|c| (&c.env_from, &c.env));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env_from, &c.env));
    ordinary.chain(ephemeral).map(|(from, variables)| Environment {
        from: from.as_deref().unwrap_or_default(),
        variables: variables.as_deref().unwrap_or_default(),
    })
}

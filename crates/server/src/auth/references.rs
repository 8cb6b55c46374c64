//! The objects a pod refers to by name, in its own namespace.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};

/// What a pod can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
    ResourceClaim,
}

/// All objects of its namespace that a pod refers to.
pub(crate) fn references(pod: &Pod) -> Vec<(Kind, String)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(spec.service_account_name.iter().map(|name| (Kind::Account, name.clone())));
    found.extend(spec.image_pull_secrets.iter().flatten().map(|secret| (Kind::Secret, secret.name.clone())));
    for environment in environments(spec) {
        from_environment(&environment, &mut found);
    }
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    for volume in spec.volumes.iter().flatten() {
        from_volume(volume, pod_name, &mut found);
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    found.extend(statuses.filter_map(|claim| claim.resource_claim_name.clone()).map(|n| (Kind::ResourceClaim, n)));
    let claims = spec.resource_claims.iter().flatten().filter_map(|claim| claim.resource_claim_name.clone());
    found.extend(claims.map(|name| (Kind::ResourceClaim, name)));
    found.retain(|(_, name)| !name.is_empty());
    found.sort_by(|a, b| (a.0 as u8, &a.1).cmp(&(b.0 as u8, &b.1)));
    found.dedup();
    found
}

fn from_environment(environment: &Environment<'_>, found: &mut Vec<(Kind, String)>) {
    for source in environment.from {
        found.extend(source.secret_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
    for source in environment.variables.iter().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.secret_key_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map_key_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
}

fn from_volume(volume: &Volume, pod: &str, found: &mut Vec<(Kind, String)>) {
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        found.extend(source.secret.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
    found.extend(volume.config_map.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    found.extend(volume.persistent_volume_claim.iter().map(|claim| (Kind::Claim, claim.claim_name.clone())));
    found.extend(volume.ephemeral.iter().map(|_| (Kind::Claim, format!("{pod}-{}", volume.name))));
    let secrets = [
        volume.secret.as_ref().and_then(|s| s.secret_name.clone()),
        volume.azure_file.as_ref().map(|s| s.secret_name.clone()),
        volume.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.scale_io.as_ref().map(|s| s.secret_ref.name.clone()),
        volume.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()).map(|s| s.name.clone()),
    ];
    found.extend(secrets.into_iter().flatten().map(|name| (Kind::Secret, name)));
}

/// The environment of one container.
struct Environment<'a> {
    /// `envFrom`
    from: &'a [EnvFromSource],
    /// `env`
    variables: &'a [EnvVar],
}

/// The environments of all containers: init, ordinary, ephemeral.
fn environments(spec: &PodSpec) -> impl Iterator<Item = Environment<'_>> {
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ordinary = ordinary.map(|c| (&c.env_from, &c.env));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env_from, &c.env));
    ordinary.chain(ephemeral).map(|(from, variables)| Environment {
        from: from.as_deref().unwrap_or_default(),
        variables: variables.as_deref().unwrap_or_default(),
    })
}

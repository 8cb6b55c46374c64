//! Faults of a pod spec; shared by pods and everything with a pod template.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;
use skiff_meta::quantity::Quantity;

use crate::faults::{At, label_selector, labels};
use crate::tree::{members, text};

/// Faults of a pod spec.
pub(crate) fn validate(spec: &At<'_>, faults: &mut FieldErrors) {
    let volumes = volumes(&spec.get("volumes"), faults);
    let containers = spec.get("containers");
    if containers.required(faults, "") {
        let mut seen = BTreeSet::new();
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for container in spec.get(list).items() {
                self::container(&container, list, &volumes, &mut seen, faults);
            }
        }
        host_ports(&containers, faults);
    }
    spec.get("restartPolicy").one_of(faults, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").one_of(faults, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    let grace = spec.get("terminationGracePeriodSeconds");
    grace.not_negative(faults);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.number().is_some_and(|n| n < 1) {
        deadline.invalid(faults, "must be between 1 and 2147483647, inclusive");
    }
    for (field, rule) in [
        ("nodeName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("runtimeClassName", names::dns1123_subdomain),
    ] {
        let at = spec.get(field);
        if !at.is_empty() {
            at.named(faults, rule);
        }
    }
    labels(&spec.get("nodeSelector"), faults);
    affinity(&spec.get("affinity"), faults);
    for toleration in spec.get("tolerations").items() {
        self::toleration(&toleration, faults);
    }
    for secret in spec.get("imagePullSecrets").items() {
        secret.get("name").required(faults, "");
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let skew = constraint.get("maxSkew");
        if skew.number().is_none_or(|n| n < 1) {
            skew.invalid(faults, "must be greater than zero");
        }
        constraint.get("topologyKey").required(faults, "can not be empty");
        constraint.get("whenUnsatisfiable").one_of(faults, &["DoNotSchedule", "ScheduleAnyway"]);
        label_selector(&constraint.get("labelSelector"), faults);
    }
    for gate in spec.get("readinessGates").items() {
        let condition = gate.get("conditionType");
        condition.named(faults, names::qualified_name);
    }
}

/// The volumes' names.
fn volumes(at: &At<'_>, faults: &mut FieldErrors) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for volume in at.items() {
        let name = volume.get("name");
        if name.required(faults, "") {
            name.named(faults, names::dns1123_label);
            if !seen.insert(name.text().to_owned()) {
                faults.push(FieldError::duplicate(&name.path, name.text()));
            }
        }
        let sources: Vec<&String> =
            members(volume.value).filter(|(k, v)| *k != "name" && !v.is_null()).map(|(k, _)| k).collect();
        match sources[..] {
            [] => faults.push(FieldError::required(&volume.path, "must specify a volume type")),
            [source] => volume_source(&volume.get(source), source, faults),
            [_, ref more @ ..] => more
                .iter()
                .for_each(|source| volume.get(source).forbidden(faults, "may not specify more than 1 volume type")),
        }
    }
    seen
}

fn volume_source(source: &At<'_>, name: &str, faults: &mut FieldErrors) {
    match name {
        "hostPath" => {
            let path = source.get("path");
            if path.required(faults, "") && path.text().split('/').any(|part| part == "..") {
                path.invalid(faults, "must not contain '..'");
            }
            source.get("type").one_of(
                faults,
                &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"],
            );
        }
        "secret" => {
            source.get("secretName").required(faults, "");
            key_paths(&source.get("items"), faults);
        }
        "configMap" => {
            source.get("name").required(faults, "");
            key_paths(&source.get("items"), faults);
        }
        "persistentVolumeClaim" => {
            source.get("claimName").required(faults, "");
        }
        "emptyDir" => {
            source.get("medium").one_of(faults, &["", "Memory", "HugePages"]);
            quantity(&source.get("sizeLimit"), faults);
        }
        _ => {}
    }
    let mode = source.get("defaultMode");
    if mode.number().is_some_and(|m| !(0..=0o777).contains(&m)) {
        mode.invalid(faults, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn key_paths(items: &At<'_>, faults: &mut FieldErrors) {
    for item in items.items() {
        item.get("key").required(faults, "");
        let path = item.get("path");
        if path.required(faults, "") {
            local_path(&path, faults);
        }
    }
}

fn local_path(path: &At<'_>, faults: &mut FieldErrors) {
    if path.text().starts_with('/') {
        path.invalid(faults, "must be a relative path");
    }
    if path.text().split('/').any(|part| part == "..") {
        path.invalid(faults, "must not contain '..'");
    }
}

fn container(
    at: &At<'_>,
    list: &str,
    volumes: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    faults: &mut FieldErrors,
) {
    let name = at.get("name");
    if name.required(faults, "") {
        name.named(faults, names::dns1123_label);
        if !seen.insert(name.text().to_owned()) {
            faults.push(FieldError::duplicate(&name.path, name.text()));
        }
    }
    let image = at.get("image");
    if image.required(faults, "") && image.text().trim() != image.text() {
        image.invalid(faults, "must not have leading or trailing whitespace");
    }
    at.get("imagePullPolicy").one_of(faults, &["Always", "IfNotPresent", "Never"]);
    at.get("terminationMessagePolicy").one_of(faults, &["FallbackToLogsOnError", "File"]);
    ports(&at.get("ports"), faults);
    environment(at, faults);
    mounts(&at.get("volumeMounts"), volumes, faults);
    resources(&at.get("resources"), faults);
    if list == "initContainers" && at.get("restartPolicy").text() != "Always" {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if at.get(field).exists() {
                at.get(field).forbidden(faults, "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        self::probe(&at.get(probe), probe != "readinessProbe", faults);
    }
    for hook in ["postStart", "preStop"] {
        let hook = at.get("lifecycle").get(hook);
        if hook.exists() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], faults);
        }
    }
}

fn ports(at: &At<'_>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for port in at.items() {
        let name = port.get("name");
        if !name.is_empty() {
            name.named(faults, names::port_name);
            if !seen.insert(name.text()) {
                faults.push(FieldError::duplicate(&name.path, name.text()));
            }
        }
        let number = port.get("containerPort");
        if number.required(faults, "") {
            number.port(faults);
        }
        if port.get("hostPort").number().is_some_and(|n| n != 0) {
            port.get("hostPort").port(faults);
        }
        port.get("protocol").one_of(faults, &["TCP", "UDP", "SCTP"]);
    }
}

fn host_ports(containers: &At<'_>, faults: &mut FieldErrors) {
    let mut taken = BTreeSet::new();
    for container in containers.items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.number().filter(|n| *n != 0) else { continue };
            let key = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
            if !taken.insert(key.clone()) {
                faults.push(FieldError::duplicate(&host.path, key));
            }
        }
    }
}

fn environment(container: &At<'_>, faults: &mut FieldErrors) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        if name.required(faults, "") {
            name.named(faults, names::env_var_name);
        }
        let source = variable.get("valueFrom");
        if !source.exists() {
            continue;
        }
        if !variable.get("value").is_empty() {
            source.invalid(faults, "may not be specified when `value` is not empty");
        }
        if members(source.value).count() != 1 {
            source.invalid(
                faults,
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            );
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            let reference = source.get(reference);
            if reference.exists() {
                reference.get("key").required(faults, "");
            }
        }
    }
    for source in container.get("envFrom").items() {
        if !source.get("configMapRef").exists() && !source.get("secretRef").exists() {
            source.invalid(faults, "must specify one of: `configMapRef` or `secretRef`");
        }
    }
}

fn mounts(at: &At<'_>, volumes: &BTreeSet<String>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for mount in at.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.required(faults, "") && !volumes.contains(name.text()) {
            faults.push(FieldError::not_found(&name.path, name.text()));
        }
        if path.required(faults, "") && !seen.insert(path.text()) {
            path.invalid(faults, "must be unique");
        }
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        for path in [&sub, &expression] {
            local_path(path, faults);
        }
        if !sub.is_empty() && !expression.is_empty() {
            expression.invalid(faults, "subPathExpr and subPath are mutually exclusive");
        }
    }
}

fn quantity(at: &At<'_>, faults: &mut FieldErrors) -> Option<Quantity> {
    if !at.exists() {
        return None;
    }
    match Quantity::from_json(at.value) {
        Ok(amount) if amount.is_negative() => {
            at.invalid(faults, "must be greater than or equal to 0");
            None
        }
        Ok(amount) => Some(amount),
        Err(error) => {
            at.invalid(faults, &error.to_string());
            None
        }
    }
}

/// Limits and requests: readable, not negative, no more asked for than allowed.
pub(crate) fn resources(at: &At<'_>, faults: &mut FieldErrors) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    for list in [&limits, &requests] {
        for (name, amount) in members(list.value) {
            let at = At { value: amount, path: list.path.key(name) };
            for fault in names::qualified_name(name) {
                faults.push(FieldError::invalid(&at.path, name.clone(), &fault));
            }
            quantity(&at, faults);
        }
    }
    for (name, wanted) in members(requests.value) {
        let (Ok(wanted_amount), Some(limit)) = (Quantity::from_json(wanted), limits.value.get(name)) else { continue };
        let Ok(limit_amount) = Quantity::from_json(limit) else { continue };
        if wanted_amount > limit_amount {
            let path = requests.path.clone();
            faults.push(FieldError::invalid(
                &path,
                text(wanted),
                &format!("must be less than or equal to {name} limit of {}", shown(limit)),
            ));
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn probe(at: &At<'_>, single_success: bool, faults: &mut FieldErrors) {
    if !at.exists() {
        return;
    }
    handler(at, &["exec", "httpGet", "tcpSocket", "grpc"], faults);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        at.get(field).not_negative(faults);
    }
    let threshold = at.get("successThreshold");
    if single_success && threshold.number().is_some_and(|n| n != 1) {
        threshold.invalid(faults, "must be 1");
    }
}

fn handler(at: &At<'_>, kinds: &[&str], faults: &mut FieldErrors) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| at.get(kind).exists()).collect();
    match given[..] {
        [] => faults.push(FieldError::required(&at.path, "must specify a handler type")),
        [kind] => {
            let handler = at.get(kind);
            match *kind {
                "exec" => {
                    handler.get("command").required(faults, "");
                }
                "httpGet" => {
                    handler.get("path").required(faults, "");
                    port_or_name(&handler.get("port"), faults);
                    handler.get("scheme").one_of(faults, &["HTTP", "HTTPS"]);
                }
                "tcpSocket" => port_or_name(&handler.get("port"), faults),
                "grpc" => handler.get("port").port(faults),
                _ => {}
            }
        }
        [_, ref more @ ..] => {
            more.iter().for_each(|kind| at.get(kind).forbidden(faults, "may not specify more than 1 handler type"))
        }
    }
}

/// A port by number, or by the name of a container's port.
pub(crate) fn port_or_name(at: &At<'_>, faults: &mut FieldErrors) {
    if at.number().is_some() {
        at.port(faults);
    } else {
        at.named(faults, names::port_name);
    }
}

fn toleration(at: &At<'_>, faults: &mut FieldErrors) {
    let (key, operator, effect) = (at.get("key"), at.get("operator"), at.get("effect"));
    if !key.is_empty() {
        key.named(faults, names::qualified_name);
    } else if operator.text() != "Exists" {
        operator.invalid(
            faults,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if at.get("tolerationSeconds").exists() && effect.text() != "NoExecute" {
        effect.invalid(faults, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    if operator.text() == "Exists" && !at.get("value").is_empty() {
        operator.invalid(faults, "value must be empty when `operator` is 'Exists'");
    }
    operator.one_of(faults, &["Equal", "Exists", "Lt", "Gt", ""]);
    effect.one_of(faults, &["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

fn affinity(at: &At<'_>, faults: &mut FieldErrors) {
    let node = at.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.exists()
        && required.get("nodeSelectorTerms").required(faults, "must have at least one node selector term")
    {
        required.get("nodeSelectorTerms").items().for_each(|term| selector_term(&term, faults));
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred, faults);
        selector_term(&preferred.get("preference"), faults);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = at.get(kind);
        for term in at.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, faults);
        }
        for preferred in at.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&preferred, faults);
            pod_term(&preferred.get("podAffinityTerm"), faults);
        }
    }
}

fn weight(at: &At<'_>, faults: &mut FieldErrors) {
    let weight = at.get("weight");
    if !weight.number().is_some_and(|n| (1..=100).contains(&n)) {
        weight.invalid(faults, "must be in the range 1-100");
    }
}

fn selector_term(term: &At<'_>, faults: &mut FieldErrors) {
    for expression in term.get("matchExpressions").items() {
        expression.get("key").named(faults, names::qualified_name);
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(faults, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden(faults, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
            }
            "Gt" | "Lt" if values.items().count() != 1 => faults.push(FieldError::required(
                &values.path,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => operator.invalid(faults, "not a valid selector operator"),
        }
    }
}

fn pod_term(term: &At<'_>, faults: &mut FieldErrors) {
    label_selector(&term.get("labelSelector"), faults);
    term.get("topologyKey").required(faults, "can not be empty");
}

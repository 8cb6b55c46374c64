//! The two policies of Jobs: which failures count, and when enough has succeeded. Pure.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use skiff_client::Kind;

use super::indexes::Indexes;

/// What the failure of a pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It counts towards the back-off limit.
    Counts,
    /// It does not.
    Ignored,
    /// It counts, and its index is not tried again.
    FailsIndex,
    /// The whole Job has failed, for this reason.
    FailsJob(String),
}

/// Judges a failed pod: the first rule that fits decides.
pub(crate) fn judge(spec: &JobSpec, pod: &Pod) -> Failure {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let what = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => by_exit_code(pod, codes),
            (None, Some(patterns)) => by_condition(pod, patterns),
            (None, None) => None,
        };
        let Some(what) = what else { continue };
        return match &*rule.action {
            "Ignore" => Failure::Ignored,
            "FailIndex" => Failure::FailsIndex,
            "FailJob" => Failure::FailsJob(format!("{what} matching FailJob rule at index {index}")),
            _ => Failure::Counts,
        };
    }
    Failure::Counts
}

fn by_exit_code(pod: &Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |container: &ContainerStatus| Some(container.state.as_ref()?.terminated.as_ref()?.exit_code);
    let mut all = all.filter(|container| wanted.container_name.as_ref().is_none_or(|name| *name == container.name));
    let (name, code) = all.find_map(|container| {
        let code = code(container).filter(|code| *code != 0)?;
        let listed = wanted.values.contains(&code);
        (listed == (wanted.operator == "In")).then_some((&container.name, code))
    })?;
    Some(format!("Container {name} for pod {}/{} failed with exit code {code}", pod.namespace(), pod.name()))
}

fn by_condition(pod: &Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<String> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let found = conditions
        .find(|c| patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status))?;
    Some(format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), found.type_))
}

/// Whether enough indexes have succeeded for the Job to be a success; by which rule.
pub(crate) fn enough(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let completions = spec.completions.unwrap_or(0);
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let met = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| {
        let wanted = rule.succeeded_count.map(|count| usize::try_from(count).unwrap_or(0));
        match &rule.succeeded_indexes {
            Some(text) => {
                let listed = Indexes::parse(text, completions);
                listed.len() > 0 && succeeded.common(&listed) >= wanted.unwrap_or(listed.len())
            }
            None => wanted.is_some_and(|wanted| succeeded.len() >= wanted),
        }
    };
    let mut rules = rules.enumerate().filter(|_| succeeded.len() > 0);
    rules.find(|(_, rule)| met(rule)).map(|(index, _)| format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_first_rule_that_fits_decides() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [43]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [44]}},
            {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1, 42], "containerName": "c"}},
        ]}}))
        .unwrap();
        let pod = |code: i32, conditions: Value| -> Pod {
            let state = json!({"terminated": {"exitCode": code}});
            let container =
                json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
                "status": {"conditions": conditions, "containerStatuses": [container]}}))
            .unwrap()
        };
        let told = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        let table = [
            (42, json!([]), Failure::FailsJob(told.into())),
            (42, json!([{"type": "DisruptionTarget", "status": "True"}]), Failure::Ignored),
            (1, json!([]), Failure::Counts),
            (43, json!([]), Failure::FailsIndex),
            (44, json!([]), Failure::Counts),
            (7, json!([]), Failure::Ignored),
        ];
        for (code, conditions, expected) in table {
            assert_eq!(judge(&spec, &pod(code, conditions)), expected, "{code}");
        }
    }

    #[test]
    fn enough_is_enough() {
        let spec = |rule: Value| -> JobSpec {
            serde_json::from_value(json!({"template": {}, "completions": 10, "successPolicy": {"rules": [rule]}}))
                .unwrap()
        };
        let done = Indexes::parse("0,2-4", 10);
        let table = [
            (json!({"succeededIndexes": "0,2"}), true),
            (json!({"succeededIndexes": "0,1"}), false),
            (json!({"succeededIndexes": "0-9", "succeededCount": 4}), true),
            (json!({"succeededCount": 5}), false),
            (json!({"succeededCount": 4}), true),
        ];
        for (rule, expected) in table {
            let text = rule.to_string();
            assert_eq!(enough(&spec(rule), &done).is_some(), expected, "{text}");
        }
    }
}

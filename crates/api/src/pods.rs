//! What a pod's status says (`pkg/api/v1/pod` upstream).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// The condition of this type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// `status.phase`, empty before there is one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod serves requests.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether the pod has been ready for `min_ready_seconds` at `now`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    match min_ready_seconds {
        0 => is_ready(pod),
        seconds => available_at(pod, seconds).is_some_and(|at| at <= now),
    }
}

/// When a ready pod becomes, or became, available: the time to look again. `None` when it is not ready, or does not
/// say since when.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    let since = ready.last_transition_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok()
}

/// Whether all containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion was asked for.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts for its owner: neither finished nor going.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// `spec.priority`, 0 where nothing is said.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn availability_is_readiness_that_lasts() {
        let ready_at = |time: Value| {
            pod(json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": time}]}))
        };
        let now: Timestamp = "2024-01-01T00:00:10Z".parse().unwrap();
        for (since, seconds, expected) in [
            (json!("2024-01-01T00:00:00Z"), 0, true),
            (json!("2024-01-01T00:00:00Z"), 10, true),
            (json!("2024-01-01T00:00:01Z"), 10, false),
            (json!(null), 0, true),
            (json!(null), 1, false),
        ] {
            assert_eq!(is_available(&ready_at(since.clone()), seconds, now), expected, "{since} {seconds}");
        }
        let unready = pod(json!({"conditions": [{"type": "Ready", "status": "False"}]}));
        assert!(!is_ready(&unready) && !is_available(&unready, 0, now) && available_at(&unready, 0).is_none());
    }

    #[test]
    fn who_counts() {
        assert!(is_active(&pod(json!(null))) && is_active(&pod(json!({"phase": "Running"}))));
        assert!(!is_active(&pod(json!({"phase": "Failed"}))) && is_finished(&pod(json!({"phase": "Succeeded"}))));
        let mut going = pod(json!({"phase": "Running"}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2024-01-01T00:00:00Z")).unwrap();
        assert!(is_terminating(&going) && !is_active(&going));
        assert_eq!(priority(&going), 0);
    }
}

//! Priority: pods get the number behind the name of their class, and there is one default class at most.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::{find, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

/// The plug-in.
pub(super) struct Priority;

fn classes() -> GroupResource {
    GroupResource::new(GROUP, "priorityclasses")
}

/// The class marked as default; of several, which only a race can make, the lowest.
fn default_class(request: &AdmissionRequest<'_>) -> Option<Arc<PriorityClass>> {
    let all = request.view.list(&classes(), "");
    let typed = all.iter().filter_map(|class| class.typed::<PriorityClass>().ok());
    typed.filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
}

async fn class_of(request: &AdmissionRequest<'_>, pod: &Value) -> Result<Option<Arc<PriorityClass>>, Status> {
    match text(&pod["spec"], "priorityClassName") {
        "" => Ok(default_class(request)),
        name => match find(request.view, &classes(), "", name).await? {
            Some(found) => found.typed().map(Some).map_err(Status::internal),
            None => Err(refuse(request, Some(pod), &format!("no PriorityClass with name {name} was found"))),
        },
    }
}

async fn resolve(request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Status> {
    let class = class_of(request, pod).await?;
    let value = class.as_ref().and_then(|class| class.value).unwrap_or(0);
    let policy = match &class {
        Some(class) => class.preemption_policy.clone(),
        None => Some(PREEMPT.to_owned()),
    };
    if let Some(said) = pod["spec"]["priority"].as_i64().filter(|said| *said != i64::from(value)) {
        let why = format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        );
        return Err(refuse(request, Some(pod), &why));
    }
    if let (Some(said), Some(policy)) = (pod["spec"]["preemptionPolicy"].as_str(), &policy)
        && said != policy
    {
        let why = format!(
            "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(refuse(request, Some(pod), &why));
    }
    let spec = &mut pod["spec"];
    if let Some(name) = class.and_then(|class| class.metadata.name.clone()) {
        spec["priorityClassName"] = json!(name);
    }
    spec["priority"] = json!(value);
    if let Some(policy) = policy {
        spec["preemptionPolicy"] = json!(policy);
    }
    Ok(())
}

/// Clients that do not know these fields must not remove them.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
            pod["spec"][field] = old["spec"][field].clone();
        }
    }
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && matches!(
                (resource.group.as_str(), resource.resource.as_str()),
                ("", "pods") | (GROUP, "priorityclasses")
            )
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        match request.old {
            _ if request.resource.resource != "pods" => Ok(()),
            Some(old) => {
                keep(object, old);
                Ok(())
            }
            None => resolve(request, object).await,
        }
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let is_class = request.resource.resource == "priorityclasses";
        let Some(class) = object.filter(|o| is_class && o["globalDefault"] == true) else { return Ok(()) };
        let Some(other) = default_class(request).and_then(|class| class.metadata.name.clone()) else { return Ok(()) };
        if request.operation == Operation::Update && text(&class["metadata"], "name") == other {
            return Ok(());
        }
        let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
        Err(refuse(request, object, &why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    fn put(trial: &Trial<Priority>, name: &str, value: i32, default: bool) {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "globalDefault": default});
        trial.view.put("priorityclasses.scheduling.k8s.io", class);
    }

    fn admit(trial: &Trial<Priority>, spec: Value) -> Result<(String, i64, Value), String> {
        let pod = trial.create("pods").namespace("a").mutate(json!({"metadata": {"name": "p"}, "spec": spec}));
        let mut pod = pod.map_err(|status| status.message)?;
        let spec = &mut pod["spec"];
        Ok((
            text(spec, "priorityClassName").to_owned(),
            spec["priority"].as_i64().unwrap(),
            spec["preemptionPolicy"].take(),
        ))
    }

    #[test]
    fn names_become_numbers() {
        let trial = Trial::new(Priority);
        assert_eq!(admit(&trial, json!({})), Ok((String::new(), 0, json!(PREEMPT))));
        put(&trial, "high", 1000, false);
        put(&trial, "usual", 10, true);
        assert_eq!(admit(&trial, json!({"priorityClassName": "high"})), Ok(("high".to_owned(), 1000, Value::Null)));
        assert_eq!(admit(&trial, json!({})), Ok(("usual".to_owned(), 10, Value::Null)));
        assert!(admit(&trial, json!({"priorityClassName": "high", "priority": 1000})).is_ok());
        let wrong = admit(&trial, json!({"priorityClassName": "high", "priority": 5})).unwrap_err();
        assert!(wrong.contains("the integer value of priority (5) must not be provided in pod spec"), "{wrong}");
        let unknown = admit(&trial, json!({"priorityClassName": "x"})).unwrap_err();
        assert_eq!(unknown, "pods \"p\" is forbidden: no PriorityClass with name x was found");
    }

    #[test]
    fn updates_keep_what_was_resolved() {
        let old = json!({"spec": {"priority": 7, "preemptionPolicy": "Never"}});
        let new = Trial::new(Priority).update("pods", old.clone()).mutate(json!({"spec": {}})).unwrap();
        assert_eq!(new, old);
    }

    #[test]
    fn one_default_at_most() {
        let trial = Trial::new(Priority);
        put(&trial, "usual", 10, true);
        let class = |name: &str, default: bool| json!({"metadata": {"name": name}, "globalDefault": default});
        let resource = "priorityclasses.scheduling.k8s.io";
        assert!(trial.create(resource).validate(&class("more", false)).is_ok());
        let refusal = trial.create(resource).validate(&class("more", true)).unwrap_err();
        assert!(refusal.message.contains("PriorityClass usual is already marked as default"), "{refusal}");
        let update = |name: &str| trial.update(resource, class(name, true)).validate(&class(name, true));
        assert!(update("usual").is_ok() && update("more").is_err());
    }
}

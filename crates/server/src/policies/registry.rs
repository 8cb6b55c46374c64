//! All policies of one sort with their bindings, compiled as long as they stay as they are, and their parameters.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::selector::LabelSelector;
use skiff_meta::{GroupResource, GroupVersionResource, Object, Status};
use skiff_store::Revision;

use super::matching::{Form, Matching};
use crate::chain::{AdmissionRequest, View};

const GROUP: &str = "admissionregistration.k8s.io";

/// Policies of one sort.
pub(super) struct Registry<P> {
    policies: GroupResource,
    bindings: GroupResource,
    compile: fn(&Value) -> P,
    known: Mutex<Known<P>>,
}

struct Known<P> {
    as_of: (Revision, Revision),
    all: Arc<Vec<Policy<P>>>,
}

/// A policy with its bindings.
pub(super) struct Policy<P> {
    /// Which state of the object this is.
    object: Arc<Object>,
    pub(super) name: String,
    matching: Arc<Matching>,
    pub(super) compiled: Arc<P>,
    /// API version and kind of its parameters.
    params: Option<(String, String)>,
    bindings: Vec<Arc<Binding>>,
}

/// Where a policy is in force.
pub(super) struct Binding {
    pub(super) name: String,
    policy: String,
    matching: Option<Matching>,
    params: Option<Reference>,
    /// `Deny`, `Warn`, `Audit`.
    pub(super) actions: Vec<String>,
}

/// Which parameters.
struct Reference {
    name: String,
    namespace: String,
    selector: Option<LabelSelector>,
    must_exist: bool,
}

impl<P> Registry<P> {
    /// `kind`: `validatingadmissionpolicies` or the like.
    pub(super) fn new(policies: &str, bindings: &str, compile: fn(&Value) -> P) -> Self {
        let known = Mutex::new(Known { as_of: (0, 0), all: Arc::default() });
        Self {
            policies: GroupResource::new(GROUP, policies),
            bindings: GroupResource::new(GROUP, bindings),
            compile,
            known,
        }
    }

    /// The policies as of now; none for what decides about admission itself.
    pub(super) fn policies(&self, request: &AdmissionRequest<'_>) -> Arc<Vec<Policy<P>>> {
        let exempt = request.resource.group == GROUP && request.resource.resource.contains("admissionpolic");
        if exempt {
            return Arc::default();
        }
        let view = request.view;
        let as_of = (view.changed(&self.policies), view.changed(&self.bindings));
        let mut known = self.known.lock();
        if known.as_of != as_of {
            let all = Arc::new(self.read(view, &known.all));
            *known = Known { as_of, all };
        }
        known.all.clone()
    }

    /// Only what has changed is compiled anew.
    fn read(&self, view: &dyn View, before: &[Policy<P>]) -> Vec<Policy<P>> {
        let mut bindings: HashMap<String, Vec<Arc<Binding>>> = HashMap::new();
        for object in view.list(&self.bindings, "") {
            if let Ok(json) = object.to_value() {
                let binding = Binding::read(&json);
                bindings.entry(binding.policy.clone()).or_default().push(Arc::new(binding));
            }
        }
        let policy = |object: Arc<Object>| {
            let bindings = bindings.remove(&object.meta().name).unwrap_or_default();
            if let Some(same) = before.iter().find(|policy| Arc::ptr_eq(&policy.object, &object)) {
                return Some(Policy {
                    object,
                    name: same.name.clone(),
                    matching: same.matching.clone(),
                    compiled: same.compiled.clone(),
                    params: same.params.clone(),
                    bindings,
                });
            }
            let json = object.to_value().ok()?;
            let kind = &json["spec"]["paramKind"];
            let text = |name: &str| kind[name].as_str().unwrap_or_default().to_owned();
            Some(Policy {
                name: object.meta().name.clone(),
                matching: Arc::new(Matching::read(&json["spec"]["matchConstraints"])),
                compiled: Arc::new((self.compile)(&json)),
                params: kind.is_object().then(|| (text("apiVersion"), text("kind"))),
                bindings,
                object,
            })
        };
        view.list(&self.policies, "").into_iter().filter_map(policy).collect()
    }
}

impl Binding {
    fn read(json: &Value) -> Self {
        let spec = &json["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reference = &spec["paramRef"];
        let selector = || Some(&reference["selector"]).filter(|s| !s.is_null());
        Self {
            name: text(&json["metadata"]["name"]),
            policy: text(&spec["policyName"]),
            matching: Some(&spec["matchResources"]).filter(|m| m.is_object()).map(Matching::read),
            params: reference.is_object().then(|| Reference {
                name: text(&reference["name"]),
                namespace: text(&reference["namespace"]),
                selector: selector().and_then(|s| LabelSelector::from_json(s).ok()),
                must_exist: reference["parameterNotFoundAction"] == "Deny",
            }),
            actions: spec["validationActions"].as_array().into_iter().flatten().map(text).collect(),
        }
    }

    /// The parameters to judge a request with, one after the other: null stands for none at all.
    async fn parameters(&self, kind: Option<&ParamKind>, request: &AdmissionRequest<'_>) -> Result<Vec<Value>, String> {
        let (Some(ParamKind { resource, namespaced }), Some(reference)) = (kind, &self.params) else {
            return Ok(vec![Value::Null]);
        };
        let (namespaced, id) = (*namespaced, &resource.group_resource());
        if !namespaced && !reference.namespace.is_empty() {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        let namespace = match (namespaced, reference.namespace.as_str()) {
            (false, _) => "",
            (true, "") if request.namespace.is_empty() => {
                let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (true, "") => request.namespace,
            (true, namespace) => namespace,
        };
        let found = match &reference.selector {
            _ if !reference.name.is_empty() => request.view.get(id, namespace, &reference.name).into_iter().collect(),
            Some(selector) => {
                let mut all = request.view.list(id, namespace);
                all.retain(|object| selector.matches(&object.meta().labels));
                all
            }
            None => return Err("one of name or selector must be provided".to_owned()),
        };
        if found.is_empty() && reference.must_exist {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        let shown = found.iter().map(|object| request.forms.read(object, resource));
        futures::future::try_join_all(shown).await.map_err(|status| status.message)
    }
}

/// Bindings with the parameters that they give, or why they cannot.
type Invocations = Vec<(Option<Arc<Binding>>, Result<Vec<Value>, String>)>;

/// As what a policy sees the request's object, and by which bindings it is asked; nothing, if it is not about it. Where no
/// binding stands beside an error, the policy itself is wrong.
pub(super) async fn invocations<P>(
    policy: &Policy<P>,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Option<(Form, Invocations)> {
    let own = || Form { resource: request.resource.clone(), kind: request.kind.clone() };
    let wrong = |why: String| Some((own(), vec![(None, Err(format!("failed to configure policy: {why}")))]));
    let form = match policy.matching.form(request, object).await {
        Ok(form) => form?,
        Err(status) => return wrong(status.message),
    };
    let kind = match &policy.params {
        None => None,
        Some((version, kind)) => match resource_of(request.view, version, kind) {
            Some(found) => Some(found),
            None => {
                return wrong(format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'"));
            }
        },
    };
    let mut found = Vec::new();
    for binding in &policy.bindings {
        let about = match &binding.matching {
            None => Ok(true),
            Some(matching) => matching.form(request, object).await.map(|form| form.is_some()),
        };
        let parameters = match about {
            Ok(false) => continue,
            Ok(true) => binding.parameters(kind.as_ref(), request).await,
            Err(status) => Err(status.message),
        };
        let parameters = parameters.map_err(|why| format!("failed to configure binding: {why}"));
        found.push((Some(binding.clone()), parameters));
    }
    Some((form, found))
}

/// What parameters are.
struct ParamKind {
    /// At the version that the policy asks for.
    resource: GroupVersionResource,
    namespaced: bool,
}

fn resource_of(view: &dyn View, api_version: &str, kind: &str) -> Option<ParamKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = |id: GroupResource| {
        let namespaced = view.kind_of(&id)?.1;
        Some(ParamKind { resource: GroupVersionResource::new(&*id.group, version, &*id.resource), namespaced })
    };
    if let Some(known) = skiff_api::kinds::by_group_kind(group, kind) {
        return found(known.gvr().group_resource());
    }
    let definitions = view.list(&GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions"), "");
    // Their names end with their groups.
    let of_group = |name: &str| name.split_once('.').is_some_and(|(_, of)| of == group);
    let mut definitions = definitions
        .into_iter()
        .filter(|definition| of_group(&definition.meta().name))
        .filter_map(|definition| definition.to_value().ok());
    let defined = definitions.find(|d| d["spec"]["group"] == group && d["spec"]["names"]["kind"] == kind)?;
    let mut versions = defined["spec"]["versions"].as_array()?.iter();
    versions.find(|served| served["name"] == version && served["served"] == true)?;
    found(GroupResource::new(group, defined["spec"]["names"]["plural"].as_str()?))
}

/// The namespace that a request's object lies in, without what nobody may rely on; null where there is none.
pub(super) async fn namespace(request: &AdmissionRequest<'_>) -> Result<Value, Status> {
    if request.namespace.is_empty() {
        return Ok(Value::Null);
    }
    let id = GroupResource::new("", "namespaces");
    let found = crate::admission::find(request.view, &id, "", request.namespace).await?;
    let mut value = found.and_then(|namespace| namespace.to_value().ok()).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
    Ok(value)
}

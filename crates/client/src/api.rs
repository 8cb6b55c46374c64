//! Typed calls: [`Api`] for one resource in one namespace, or in all.

use std::marker::PhantomData;

use http::Method;
use k8s_openapi::Metadata;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skiff_meta::{GroupVersionResource, Status};

use crate::backend::{ClientError, ListTarget, Selection};
use crate::client::{Call, Client, escape};

/// A kind with a Rust type, from `k8s-openapi`.
pub trait Kind:
    Metadata<Ty = ObjectMeta> + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Group, version and resource.
    fn gvr() -> GroupVersionResource {
        GroupVersionResource::new(Self::GROUP, Self::VERSION, Self::URL_PATH_SEGMENT)
    }
    /// The object's name; empty before it has one.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    /// The object's namespace; empty for cluster-scoped kinds.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    /// The object's UID; empty before it is created.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    /// Whether deletion was asked for.
    fn deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
}

impl<K> Kind for K where
    K: Metadata<Ty = ObjectMeta> + Clone + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// A list's answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct List<K> {
    /// resourceVersion, continue, remainingItemCount.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_as_empty")]
    pub items: Vec<K>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, K: Deserialize<'de>>(d: D) -> Result<Vec<K>, D::Error> {
    Ok(Option::<Vec<K>>::deserialize(d)?.unwrap_or_default())
}

/// A patch, in one of the four forms the API takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// JSON merge patch (RFC 7386).
    Merge(Value),
    /// JSON patch (RFC 6902): a list of operations.
    Json(Value),
    /// Strategic merge patch; built-in kinds only.
    Strategic(Value),
    /// Server-side apply under the client's field manager.
    Apply {
        /// The fields we want.
        object: Value,
        /// Take fields from other managers.
        force: bool,
    },
}

impl Patch {
    /// `Content-Type` of the patch.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Merge(_) => "application/merge-patch+json",
            Self::Json(_) => "application/json-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }
    /// Its body.
    pub fn body(&self) -> &Value {
        match self {
            Self::Merge(body) | Self::Json(body) | Self::Strategic(body) => body,
            Self::Apply { object, .. } => object,
        }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds to shut down in; `None`: the kind's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// `Foreground`, `Background` or `Orphan`; `None`: the kind's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<&'static str>,
    /// What must still be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// `["All"]`: do everything but write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<&'static str>,
}

/// What must still be true of the object to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// It is the same object, not a later one of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// It has not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Delete only the object with this UID.
    pub fn uid(uid: &str) -> Self {
        Self {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..Self::default()
        }
    }
    /// With this propagation policy.
    #[must_use]
    pub fn propagation(mut self, policy: &'static str) -> Self {
        self.propagation_policy = Some(policy);
        self
    }
    /// With this grace period in seconds.
    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }
}

/// One resource in one namespace, or in all; `K` is a [`Kind`], or `Value` for any resource.
#[derive(Clone)]
pub struct Api<K> {
    client: Client,
    resource: GroupVersionResource,
    namespace: String,
    kind: PhantomData<fn() -> K>,
}

/// `/api/v1` or `/apis/GROUP/VERSION`, then `/namespaces/NS` where given, then the resource.
pub fn collection_path(resource: &GroupVersionResource, namespace: &str) -> String {
    let mut path = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    if !namespace.is_empty() {
        path = format!("{path}/namespaces/{}", escape(namespace));
    }
    format!("{path}/{}", resource.resource)
}

impl<K: Serialize + DeserializeOwned> Api<K> {
    pub(crate) fn new(client: Client, resource: GroupVersionResource, namespace: &str) -> Self {
        Self { client, resource, namespace: namespace.to_owned(), kind: PhantomData }
    }

    /// The path of the collection, or with a name, of one object, or of its subresource.
    pub fn path(&self, name: &str, subresource: &str) -> String {
        let mut path = collection_path(&self.resource, &self.namespace);
        for part in [name, subresource].into_iter().filter(|part| !part.is_empty()) {
            path.push('/');
            // Subresources such as `proxy/index.html` have slashes of their own.
            path.push_str(&part.split('/').map(escape).collect::<Vec<_>>().join("/"));
        }
        path
    }

    /// What to list and watch to see the same objects.
    pub fn target(&self, selection: Selection) -> ListTarget {
        ListTarget { resource: self.resource.clone(), namespace: self.namespace.clone(), selection }
    }

    fn write(&self, method: Method, name: &str, subresource: &str) -> Call {
        Call::new(method, self.path(name, subresource)).with("fieldManager", self.client.manager())
    }

    /// One object.
    ///
    /// # Errors
    /// `NotFound` when there is none; all calls of this type: what the server says, or why it was not reached.
    pub async fn get(&self, name: &str) -> Result<K, ClientError> {
        self.client.call(Call::get(self.path(name, ""))).await
    }

    /// One object, or `None` when there is none.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, ClientError> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects that fit, as of now (linearizable).
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn list(&self, selection: &Selection) -> Result<List<K>, ClientError> {
        let call = Call::get(self.path("", ""))
            .with("labelSelector", &*selection.labels)
            .with("fieldSelector", &*selection.fields);
        self.client.call(call).await
    }

    /// Creates; answers with the object as it was stored.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; see [`Api::get`].
    pub async fn create(&self, object: &K) -> Result<K, ClientError> {
        self.client.call(self.write(Method::POST, "", "").json(object)?).await
    }

    /// Replaces the object, or its subresource where that is not empty.
    ///
    /// # Errors
    /// `Conflict` when the object's resourceVersion is not the newest; see [`Api::get`].
    pub async fn replace(&self, name: &str, subresource: &str, object: &K) -> Result<K, ClientError> {
        self.client.call(self.write(Method::PUT, name, subresource).json(object)?).await
    }

    /// Patches the object, or its subresource where that is not empty.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn patch_subresource(&self, name: &str, subresource: &str, patch: &Patch) -> Result<K, ClientError> {
        let mut call = self.write(Method::PATCH, name, subresource).json(patch.body())?;
        call.content_type = patch.content_type();
        if matches!(patch, Patch::Apply { force: true, .. }) {
            call = call.with("force", "true");
        }
        self.client.call(call).await
    }

    /// Patches the object.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_subresource(name, "", patch).await
    }

    /// Patches the object's status.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_subresource(name, "status", patch).await
    }

    /// Deletes, or asks for graceful deletion.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, self.path(name, "")).json(options)?;
        self.client.bytes(call).await.map(drop)
    }

    /// Deletes all objects that fit.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn delete_all(&self, selection: &Selection, options: &DeleteOptions) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, self.path("", ""))
            .with("labelSelector", &*selection.labels)
            .with("fieldSelector", &*selection.fields)
            .json(options)?;
        self.client.bytes(call).await.map(drop)
    }

    /// Creates a subresource (`pods/binding`, `serviceaccounts/token`, `pods/eviction`), which answers with an `R`.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn create_subresource<B: Serialize, R: DeserializeOwned>(
        &self,
        name: &str,
        subresource: &str,
        body: &B,
    ) -> Result<R, ClientError> {
        self.client.call(self.write(Method::POST, name, subresource).json(body)?).await
    }

    /// The object's `scale` subresource.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn scale(&self, name: &str) -> Result<Scale, ClientError> {
        self.client.call(Call::get(self.path(name, "scale"))).await
    }

    /// Sets the number of replicas through the `scale` subresource.
    ///
    /// # Errors
    /// See [`Api::get`].
    pub async fn set_scale(&self, name: &str, replicas: i32) -> Result<Scale, ClientError> {
        let body = serde_json::json!({"spec": {"replicas": replicas}});
        let mut call = self.write(Method::PATCH, name, "scale").json(&body)?;
        call.content_type = "application/merge-patch+json";
        self.client.call(call).await
    }
}

impl<K: Kind> Api<K> {
    /// Replaces the object, which names itself.
    ///
    /// # Errors
    /// See [`Api::replace`].
    pub async fn update(&self, object: &K) -> Result<K, ClientError> {
        self.replace(object.name(), "", object).await
    }

    /// Replaces the object's status.
    ///
    /// # Errors
    /// See [`Api::replace`].
    pub async fn update_status(&self, object: &K) -> Result<K, ClientError> {
        self.replace(object.name(), "status", object).await
    }
}

impl Api<k8s_openapi::api::core::v1::Pod> {
    /// Assigns a pod to a node (`pods/binding`), provided it is still the pod with this UID.
    ///
    /// # Errors
    /// `Conflict` when the pod is bound already; see [`Api::get`].
    pub async fn bind(&self, name: &str, uid: &str, node: &str) -> Result<(), ClientError> {
        let body = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": self.namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.create_subresource::<_, Status>(name, "binding", &body).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let core = GroupVersionResource::new("", "v1", "pods");
        let apps = GroupVersionResource::new("apps", "v1", "deployments");
        assert_eq!(collection_path(&core, ""), "/api/v1/pods");
        assert_eq!(collection_path(&apps, "a b"), "/apis/apps/v1/namespaces/a%20b/deployments");
    }
}

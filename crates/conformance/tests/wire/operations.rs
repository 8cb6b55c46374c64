//! Every kind that upstream serves by default can be made, read, listed, watched, changed in every way, and deleted.

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_api::{KINDS, Kind};
use skiff_conformance::{Answer, Credentials, SAMPLES};
use skiff_meta::patch::merge_patch;

use super::Run;
use crate::support::{accepted, expect};

/// Finalizers that the kinds get by themselves, so that their objects outlive their deletion.
const PROTECTED: [&str; 4] = ["Namespace", "PersistentVolume", "PersistentVolumeClaim", "VolumeAttributesClass"];

pub(crate) fn all(run: &mut Run) -> Result<(), String> {
    let mut faults = Vec::new();
    for (group, name, sample) in SAMPLES {
        let kind =
            KINDS.iter().find(|kind| kind.group == *group && kind.kind == *name && kind.verbs.contains(&"watch"));
        let Some(kind) = kind else { continue };
        for version in kind.versions {
            let done = Lifecycle { run, kind, version, sample }.check();
            faults.extend(done.err().map(|error| format!("{group}/{version} {name}: {error}")));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

struct Lifecycle<'a> {
    run: &'a Run,
    kind: &'a Kind,
    version: &'a str,
    sample: &'a str,
}

impl Lifecycle<'_> {
    fn send(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.run.api.json(method, path, body)
    }

    fn merge(&self, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.run.api.merge(path, body)?;
        accepted(&answer).map_err(|error| format!("PATCH {path}: {error}"))?;
        Ok(answer.tree())
    }

    /// The good object, with a name of its own.
    fn object(&self) -> Result<Value, String> {
        // Cluster-wide names of an earlier run may still be there.
        let run = self.run.namespace.rsplit('-').next().unwrap_or_default();
        let own = format!("ops-{run}-{}", self.version);
        let text = self
            .sample
            .replace("NS", &self.run.namespace)
            .replace("KNAME", &format!("K{run}"))
            .replace("NAME", &format!("ops{run}"));
        let mut object: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let group = if self.kind.group.is_empty() { String::new() } else { format!("{}/", self.kind.group) };
        object["apiVersion"] = format!("{group}{}", self.version).into();
        object["kind"] = self.kind.kind.into();
        if object["metadata"]["name"].is_null() {
            object = merge_patch(&json!({"metadata": {"name": own}}), &object);
        }
        Ok(merge_patch(&object, &json!({"metadata": {"labels": {"operations": "all"}}})))
    }

    fn check(&self) -> Result<(), String> {
        let root = if self.kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.kind.group) };
        let root = format!("{root}/{}", self.version);
        let everywhere = format!("{root}/{}", self.kind.plural);
        let collection = match self.kind.namespaced {
            true => format!("{root}/namespaces/{}/{}", self.run.namespace, self.kind.plural),
            false => everywhere.clone(),
        };
        let object = self.object()?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{collection}/{name}");
        // The others do not know all that the sample says.
        if self.version == self.kind.preferred_version() {
            self.applied(&path, &object)?;
        }
        let made = self.send(Method::POST, &collection, &object)?;
        expect(made.code == 201, &made)?;
        let made = made.tree();
        let same = |found: &Value| found["metadata"]["uid"] == made["metadata"]["uid"];
        let read = self.send(Method::GET, &path, &Value::Null)?;
        expect(read.code == 200 && same(&read.tree()), &read)?;
        for place in [&collection, &everywhere] {
            let list = self.send(Method::GET, &format!("{place}?labelSelector=operations%3Dall"), &Value::Null)?;
            let has = list.tree()["items"].as_array().is_some_and(|items| items.iter().any(same));
            expect(list.code == 200 && has, &list)?;
        }
        let changed = self.merge(&path, &json!({"metadata": {"annotations": {"changed": "by a patch"}}}))?;
        let changed =
            merge_patch(&changed, &json!({"metadata": {"annotations": {"changed": "whole"}, "resourceVersion": null}}));
        let put = self.send(Method::PUT, &path, &changed)?;
        // Some kinds want to be told which state is meant.
        let put = if put.code == 422 { self.send(Method::PUT, &path, &self.fresh(&path)?)? } else { put };
        expect(put.code == 200 && put.tree()["metadata"]["annotations"]["changed"] == "whole", &put)?;
        self.status(&path)?;
        let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let selected = format!("{collection}?labelSelector=operations%3Dall");
        let whole = if self.kind.verbs.contains(&"deletecollection") { &selected } else { &path };
        // Some old kinds would keep their dependents otherwise, and wait until that is done.
        accepted(&self.send(Method::DELETE, whole, &json!({"propagationPolicy": "Background"}))?)?;
        if PROTECTED.contains(&self.kind.kind) {
            let going = self.send(Method::GET, &path, &Value::Null)?;
            return expect(going.code == 404 || going.tree()["metadata"]["deletionTimestamp"].is_string(), &going);
        }
        if self.kind.kind == "Pod" {
            // Bound to nobody, it goes at once; what is left of its grace is nobody's.
            let options = json!({"gracePeriodSeconds": 0});
            self.send(Method::DELETE, &path, &options)?;
        }
        self.watched(&collection, name, version)
    }

    /// What is not there yet can be applied too, and is its manager's then.
    fn applied(&self, path: &str, object: &Value) -> Result<(), String> {
        let path = format!("{path}?fieldManager=operations&dryRun=All");
        let (wire, types) = (&self.run.api.wire, ("application/apply-patch+yaml", "application/json"));
        let sent = wire.send(Credentials::Own, &Method::PATCH, &path, types, object.to_string());
        let made = self.run.api.runtime.block_on(sent)?;
        let managers = &made.tree()["metadata"]["managedFields"];
        let own = managers.as_array().is_some_and(|all| matches!(&all[..], [one] if one["manager"] == "operations"));
        // Some kinds are told of no manager, and some of a server that fills them in.
        expect(made.code == 201 && (own || managers.is_null()), &made).map_err(|error| format!("apply: {error}"))
    }

    /// What is there, with the other annotation.
    fn fresh(&self, path: &str) -> Result<Value, String> {
        let read = self.send(Method::GET, path, &Value::Null)?;
        accepted(&read)?;
        Ok(merge_patch(&read.tree(), &json!({"metadata": {"annotations": {"changed": "whole"}}})))
    }

    /// The status is read and written by itself, and nothing else with it.
    fn status(&self, path: &str) -> Result<(), String> {
        let Some(status) = self.kind.subresources.iter().find(|subresource| subresource.name == "status") else {
            return Ok(());
        };
        let path = format!("{path}/status");
        let can = |verb: &str| status.verbs.contains(&verb);
        if can("get") {
            accepted(&self.send(Method::GET, &path, &Value::Null)?)?;
        }
        if can("patch") {
            self.merge(&path, &json!({"metadata": {"annotations": {"status": "patched"}}}))?;
            if can("update") {
                // A controller may have written it in between.
                let put = || self.send(Method::PUT, &path, &self.send(Method::GET, &path, &Value::Null)?.tree());
                let put = if can("get") { self.run.api.until(put, |put| put.code != 409)? } else { put()? };
                accepted(&put)?;
            }
        }
        Ok(())
    }

    /// From its beginning to its end, told by a watch that asks afterwards.
    fn watched(&self, collection: &str, name: &str, version: &str) -> Result<(), String> {
        let path = format!(
            "{collection}?watch=1&timeoutSeconds=20&resourceVersion={version}&fieldSelector=metadata.name%3D{name}"
        );
        let api = &self.run.api;
        api.runtime.block_on(async {
            let answer = api.wire.open(Credentials::Own, &Method::GET, &path, &[], "").await?;
            let (mut body, mut told) = (answer.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                told.extend_from_slice(&frame.map_err(|e| e.to_string())?.into_data().unwrap_or_default());
                let lines =
                    told.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
                let types: Vec<Value> = lines.map(|event| event["type"].clone()).collect();
                if types.last().is_some_and(|last| last == "DELETED") {
                    let changes = types.iter().filter(|type_| *type_ == "MODIFIED").count();
                    return if changes >= 2 { Ok(()) } else { Err(format!("told {types:?}")) };
                }
            }
            Err(format!("its end was not told: {}", String::from_utf8_lossy(&told)))
        })
    }
}

//! Every default role, every verb, every resource and subresource: reviews answer what upstream's roles say.
//!
//! What they say is worked out here from the facts, apart from any server, so that both the servers' roles and the way
//! they are matched are judged. One cell in eight is asked for, and all that are allowed; `SKIFF_SEEDS` asks for all.

use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Credentials;

use super::{RBAC, Rights, Run, binding, facts, subject};
use crate::support::{Outcome, accepted};

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// Reviews under way at a time.
const AT_ONCE: usize = 32;

/// What is asked about: a resource, or a path.
#[derive(Clone, Debug)]
struct Cell {
    verb: String,
    group: String,
    /// With its subresource.
    resource: String,
    name: String,
    /// Empty for resources.
    path: String,
}

impl Cell {
    fn of_resource(verb: &str, (group, resource): &(String, String), name: &str) -> Self {
        let (group, resource) = (group.clone(), resource.clone());
        Self { verb: verb.to_owned(), group, resource, name: name.to_owned(), path: String::new() }
    }

    /// The question that a right answers with yes.
    fn of_right(right: &str) -> Option<Self> {
        let (verb, place) = right.split_once(' ')?;
        let (place, name) = place.split_once(' ').unwrap_or((place, ""));
        let (resource, group) = place.split_once('.').unwrap_or((place, ""));
        let mut cell = Self::of_resource(verb, &(group.to_owned(), resource.to_owned()), name);
        if place.starts_with('/') || place == "*" {
            cell.path = place.to_owned();
        }
        Some(cell)
    }

    /// Whether a role with these rights allows it.
    fn is_allowed(&self, rights: &Rights) -> bool {
        rights.iter().any(|right| {
            let mut words = right.split(' ');
            let (verb, place, name) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
            (verb == "*" || verb == self.verb) && self.is_at(place) && name.is_none_or(|name| name == self.name)
        })
    }

    fn is_at(&self, place: &str) -> bool {
        if !self.path.is_empty() {
            let start = place.strip_suffix('*');
            return place == self.path
                || start.is_some_and(|start| self.path.starts_with(start)) && !place.contains('.');
        }
        if place.starts_with('/') {
            return false;
        }
        let (resource, group) = place.split_once('.').unwrap_or((place, ""));
        let part = self.resource.split_once('/').map(|(_, part)| format!("*/{part}"));
        // A lone star stands for all paths.
        let fits =
            resource == "*" && !group.is_empty() || resource == self.resource || part.as_deref() == Some(resource);
        fits && (group == "*" || group == self.group)
    }

    fn question(&self, user_group: &str, namespace: &str) -> Value {
        let mut spec = json!({"user": "somebody", "groups": [user_group]});
        if self.path.is_empty() {
            let (resource, part) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
            spec["resourceAttributes"] = json!({"verb": self.verb, "group": self.group, "resource": resource,
                "subresource": part, "name": self.name, "namespace": namespace});
        } else {
            spec["nonResourceAttributes"] = json!({"verb": self.verb, "path": self.path});
        }
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    }
}

impl Run {
    /// Group and name of all that discovery tells of, subresources too.
    fn discovered(&self) -> Result<Vec<(String, String)>, String> {
        let mut all = Vec::new();
        for root in ["/api", "/apis"] {
            let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            let accept = [("accept", media)];
            let answer =
                self.runtime.block_on(self.wire.send_with(Credentials::Own, &Method::GET, root, &accept, ""))?;
            accepted(&answer)?;
            let tree = answer.tree();
            let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
            for group in list(&tree, "items") {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                for resource in list(&group, "versions").iter().flat_map(|version| list(version, "resources")) {
                    let plural = resource["resource"].as_str().unwrap_or_default();
                    all.push((name.to_owned(), plural.to_owned()));
                    let parts = list(&resource, "subresources").into_iter();
                    all.extend(parts.filter_map(|part| {
                        Some((name.to_owned(), format!("{plural}/{}", part["subresource"].as_str()?)))
                    }));
                }
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// A group that has the role, and the namespace that it has it in; by now, if there is anything to have.
    fn bound(&mut self, role: &str, rights: &Rights) -> Result<(String, String), String> {
        let (namespace, name) = role.split_once('/').unwrap_or(("", role));
        let group = format!("matrix:{}:{role}", std::process::id());
        let object = format!("matrix:{}:{name}", std::process::id());
        let mut bound = binding(&object, name, subject("Group", &group));
        let collection = if namespace.is_empty() {
            format!("{RBAC}/clusterrolebindings")
        } else {
            bound["kind"] = json!("RoleBinding");
            bound["roleRef"]["kind"] = json!("Role");
            format!("{RBAC}/namespaces/{namespace}/rolebindings")
        };
        self.make(&collection, &bound)?;
        if let Some(cell) = rights.iter().next().and_then(|right| Cell::of_right(right)) {
            let question = cell.question(&group, namespace);
            self.until(|| self.post(REVIEWS, &question), |answer| answer.tree()["status"]["allowed"] == true)?;
        }
        Ok((group, namespace.to_owned()))
    }
}

pub(super) fn every_cell(run: &mut Run) -> Outcome {
    let facts = facts();
    let places = run.discovered()?;
    let whole = std::env::var_os("SKIFF_SEEDS").is_some();
    let paths =
        ["/healthz", "/livez/ping", "/readyz", "/version", "/api", "/apis/x", "/openapi/v3", "/metrics", "/logs/x"];
    let (mut asked, mut wrong) = (0, Vec::new());
    for (number, (role, rights)) in facts.roles.iter().enumerate() {
        let (group, namespace) = run.bound(role, rights)?;
        let mut cells: Vec<Cell> =
            places.iter().flat_map(|place| VERBS.map(|verb| Cell::of_resource(verb, place, ""))).collect();
        for right in rights {
            let words: Vec<&str> = right.split(' ').collect();
            let (resource, group) = words[1].split_once('.').unwrap_or((words[1], ""));
            if words[1].starts_with('/') || words[1] == "*" || resource == "*" {
                continue;
            }
            // Names, and verbs beside the usual ones.
            let place = (group.to_owned(), resource.to_owned());
            let verb = if words[0] == "*" { "get" } else { words[0] };
            cells.push(Cell::of_resource(verb, &place, words.get(2).unwrap_or(&"")));
            cells.push(Cell::of_resource(verb, &place, "another"));
        }
        let at =
            |verb: &str, path: &str| Cell { path: path.to_owned(), ..Cell::of_resource(verb, &Default::default(), "") };
        cells.extend(paths.iter().flat_map(|path| ["get", "post"].map(|verb| at(verb, path))));
        let chosen = cells.into_iter().enumerate().map(|(place, cell)| {
            let expected = cell.is_allowed(rights) && (namespace.is_empty() || cell.path.is_empty());
            (place, cell, expected)
        });
        let chosen = chosen.filter(|(place, _, expected)| whole || *expected || (place / 8 + place + number) % 8 == 0);
        let reviews = chosen.map(|(_, cell, expected)| {
            let question = cell.question(&group, &namespace);
            let wire = &run.wire;
            async move {
                let answer = wire.json(Method::POST, REVIEWS, &question).await?;
                accepted(&answer)?;
                let status = answer.tree()["status"].clone();
                // Some distributions guard proxies by another name, and say so.
                let elsewhere = status["reason"].as_str().is_some_and(|reason| reason.contains("unsafeproxy"));
                let allowed = if elsewhere { expected } else { status["allowed"] == true };
                Ok::<_, String>((cell, allowed, expected))
            }
        });
        let answers = futures::stream::iter(reviews).buffer_unordered(AT_ONCE).collect::<Vec<_>>();
        for answer in run.runtime.block_on(answers) {
            let (cell, allowed, expected) = answer?;
            asked += 1;
            if allowed != expected {
                wrong.push(format!("{role}: {cell:?} is {allowed}"));
            }
        }
        // What a role grants in one namespace it grants in no other.
        let first = rights.iter().next().filter(|_| !namespace.is_empty());
        if let Some(cell) = first.and_then(|right| Cell::of_right(right)) {
            let answer = run.post(REVIEWS, &cell.question(&group, "default"))?;
            if answer.tree()["status"]["allowed"] == true {
                wrong.push(format!("{role} counts in another namespace"));
            }
        }
    }
    println!("{asked} cells");
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {asked}: {:?}", wrong.len(), &wrong[..wrong.len().min(20)]))
    }
}

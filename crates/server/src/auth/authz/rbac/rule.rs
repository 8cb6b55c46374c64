//! What one rule allows, and whether rules cover one another.
//!
//! Behaviour as upstream's `pkg/apis/rbac/v1/evaluation_helpers.go` and
//! `component-helpers/auth/rbac/validation/policy_comparator.go`.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::chain::Attributes;

fn list(values: &Option<Vec<String>>) -> &[String] {
    values.as_deref().unwrap_or_default()
}

fn has(values: &[String], wanted: &str) -> bool {
    values.iter().any(|v| v == wanted)
}

fn has_or_star(values: &[String], wanted: &str) -> bool {
    values.iter().any(|v| v == "*" || v == wanted)
}

/// Whether `rule` allows what `attributes` ask for.
pub(crate) fn allows(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    if !has_or_star(&rule.verbs, attributes.verb) {
        return false;
    }
    if attributes.resource.is_empty() {
        return list(&rule.non_resource_urls).iter().any(|owned| path_covers(owned, attributes.path));
    }
    let names = list(&rule.resource_names);
    has_or_star(list(&rule.api_groups), attributes.group)
        && list(&rule.resources).iter().any(|r| resource_matches(r, attributes.resource, attributes.subresource))
        && (names.is_empty() || has(names, attributes.name))
}

/// `*`, `pods`, `pods/log` or `*/scale` against a resource and a subresource (empty: none).
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || (subresource.is_empty() && rule == resource),
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}

/// `/healthz`, `/healthz/*` or `*` against a path.
fn path_covers(owned: &str, path: &str) -> bool {
    owned == path || (owned.ends_with('*') && path.starts_with(owned.trim_end_matches('*')))
}

/// The parts of `wanted` that `owned` do not allow, each with one verb and one resource or path.
pub(crate) fn uncovered<'a>(
    owned: &[&PolicyRule],
    wanted: impl IntoIterator<Item = &'a PolicyRule>,
) -> Vec<PolicyRule> {
    let parts = wanted.into_iter().flat_map(break_down);
    parts.filter(|part| !owned.iter().any(|rule| covers(rule, part))).collect()
}

fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let part = PolicyRule {
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    [] => parts.push(part),
                    names => parts.extend(
                        names.iter().map(|n| PolicyRule { resource_names: Some(vec![n.clone()]), ..part.clone() }),
                    ),
                }
            }
        }
    }
    for path in list(&rule.non_resource_urls) {
        parts.extend(rule.verbs.iter().map(|verb| PolicyRule {
            non_resource_urls: Some(vec![path.clone()]),
            verbs: vec![verb.clone()],
            ..PolicyRule::default()
        }));
    }
    parts
}

/// Whether `owned` allows all of `part`, which has at most one of everything.
fn covers(owned: &PolicyRule, part: &PolicyRule) -> bool {
    let names = list(&owned.resource_names);
    let name_fits = names.is_empty()
        || (!list(&part.resource_names).is_empty() && list(&part.resource_names).iter().all(|n| has(names, n)));
    part.verbs.iter().all(|v| has_or_star(&owned.verbs, v))
        && list(&part.api_groups).iter().all(|g| has_or_star(list(&owned.api_groups), g))
        && list(&part.resources).iter().all(|r| resource_covered(list(&owned.resources), r))
        && name_fits
        && list(&part.non_resource_urls)
            .iter()
            .all(|p| list(&owned.non_resource_urls).iter().any(|o| path_covers(o, p)))
}

fn resource_covered(owned: &[String], resource: &str) -> bool {
    has_or_star(owned, resource)
        || resource.split_once('/').is_some_and(|(_, sub)| owned.iter().any(|o| o.strip_prefix("*/") == Some(sub)))
}

/// Single-verb rules of the same resource in one, each described as error messages do; sorted, without duplicates.
pub(crate) fn describe(rules: &[PolicyRule]) -> Vec<String> {
    let mut merged: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |m: &&mut PolicyRule| {
            rule.resources.is_some()
                && (&m.api_groups, &m.resources, &m.resource_names)
                    == (&rule.api_groups, &rule.resources, &rule.resource_names)
        };
        match merged.iter_mut().find(same) {
            Some(found) => found.verbs.extend(rule.verbs.iter().cloned()),
            None => merged.push(rule.clone()),
        }
    }
    merged.iter().map(describe_one).collect::<BTreeSet<_>>().into_iter().collect()
}

fn describe_one(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", quoted(values)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}

/// `["a" "b"]`, as Go prints a list of strings.
pub(crate) fn quoted(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("[{}]", values.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::User;

    fn words(text: &str) -> Option<Vec<String>> {
        (!text.is_empty())
            .then(|| text.split(' ').map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect())
    }

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
        PolicyRule {
            verbs: words(verbs).unwrap_or_default(),
            api_groups: words(groups),
            resources: words(resources),
            resource_names: words(names),
            ..PolicyRule::default()
        }
    }

    fn paths(verbs: &str, paths: &str) -> PolicyRule {
        PolicyRule { verbs: words(verbs).unwrap_or_default(), non_resource_urls: words(paths), ..PolicyRule::default() }
    }

    #[test]
    fn resources_subresources_and_names() {
        let cases = [
            (rule("get", "core", "pods", ""), "get", "", "pods", "", "a", true),
            (rule("get", "core", "pods", ""), "list", "", "pods", "", "", false),
            (rule("get", "core", "pods", ""), "get", "apps", "pods", "", "a", false),
            (rule("get", "core", "pods", ""), "get", "", "pods", "log", "a", false),
            (rule("get", "core", "pods/log", ""), "get", "", "pods", "log", "a", true),
            (rule("get", "core", "pods/log", ""), "get", "", "pods", "", "a", false),
            (rule("*", "*", "*", ""), "anything", "x", "y", "z", "", true),
            (rule("get", "*", "*/scale", ""), "get", "apps", "deployments", "scale", "a", true),
            (rule("get", "*", "*/scale", ""), "get", "apps", "deployments", "", "a", false),
            (rule("get", "core", "pods", "a b"), "get", "", "pods", "", "b", true),
            (rule("get", "core", "pods", "a b"), "get", "", "pods", "", "c", false),
            (rule("list", "core", "pods", "a"), "list", "", "pods", "", "", false),
            (paths("get", "*"), "get", "", "pods", "", "a", false),
        ];
        let user = User::default();
        for (rule, verb, group, resource, subresource, name, expected) in cases {
            let path = "";
            let (version, namespace) = ("v1", "");
            let attributes = Attributes {
                user: &user,
                verb,
                group,
                version,
                resource,
                subresource,
                namespace,
                name,
                fields: "",
                labels: "",
                path,
            };
            assert_eq!(allows(&rule, &attributes), expected, "{rule:?} {attributes:?}");
        }
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        for (owned, path, expected) in [
            ("*", "/anything", true),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/etcd", false),
            ("/healthz/*", "/healthz/etcd", true),
            ("/healthz/*", "/healthz", false),
            ("/api*", "/apis", true),
        ] {
            assert_eq!(path_covers(owned, path), expected, "{owned} {path}");
        }
    }

    #[test]
    fn what_is_not_held_is_told() {
        let owned =
            [rule("get list", "core", "pods */log", ""), rule("get", "core", "secrets", "mine"), paths("get", "/a/*")];
        let owned: Vec<&PolicyRule> = owned.iter().collect();
        let cases = [
            (rule("get", "core", "pods", ""), vec![]),
            (rule("get", "core", "pods", "only"), vec![]),
            (rule("get", "core", "pods/log", ""), vec![]),
            (rule("get", "core", "secrets", "mine"), vec![]),
            (
                rule("get list", "core", "secrets", ""),
                vec![r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#],
            ),
            (
                rule("get", "core", "secrets", "mine yours"),
                vec![r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["yours"], Verbs:["get"]}"#],
            ),
            (rule("*", "core", "pods", ""), vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#]),
            (paths("get", "/a/b"), vec![]),
            (paths("get", "/b"), vec![r#"{NonResourceURLs:["/b"], Verbs:["get"]}"#]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(describe(&uncovered(&owned, [&wanted])), expected, "{wanted:?}");
        }
    }
}

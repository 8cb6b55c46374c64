//! How a refusal is told.

use skiff_meta::Status;
use skiff_meta::status::Details;

use crate::chain::Attributes;

/// The 403 for a request that no authorizer allowed, in upstream's words; `reason` is what the authorizers had to say.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let Attributes { user, verb, group, resource, subresource, namespace, name, path, .. } = attributes;
    let user = &user.name;
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if resource.is_empty() {
        let mut status = Status::failure(
            403,
            "Forbidden",
            sanitize(&format!("forbidden: User {user:?} cannot {verb} path {path:?}")) + &reason,
        );
        status.details = Some(Box::default());
        return status;
    }
    let full = if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
    let scope = match *namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let what = format!("User {user:?} cannot {verb} resource {full:?} in API group {group:?} {scope}");
    let qualified = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
    let subject = if name.is_empty() { format!("{qualified} is") } else { format!("{qualified} {name:?} is") };
    let mut status = Status::failure(403, "Forbidden", format!("{subject} forbidden: {}{reason}", sanitize(&what)));
    let details = Details {
        name: (*name).to_owned(),
        group: (*group).to_owned(),
        kind: (*resource).to_owned(),
        ..Details::default()
    };
    status.details = Some(Box::new(details));
    status
}

/// The message holds text of the caller's choosing, and some show it as HTML.
fn sanitize(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::User;

    #[test]
    fn words() {
        let user = User::new("alice", &[]);
        let base = Attributes {
            user: &user,
            verb: "list",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "default",
            name: "",
            fields: "",
            labels: "",
            path: "/api/v1/namespaces/default/pods",
        };
        let cases = [
            (
                base,
                "",
                r#"pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes {
                    verb: "get",
                    group: "apps",
                    resource: "deployments",
                    subresource: "scale",
                    name: "web",
                    ..base
                },
                "RBAC: x",
                r#"deployments.apps "web" is forbidden: User "alice" cannot get resource "deployments/scale" in API group "apps" in the namespace "default": RBAC: x"#,
            ),
            (
                Attributes { resource: "nodes", namespace: "", ..base },
                "",
                r#"nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope"#,
            ),
            (
                Attributes { verb: "get", resource: "", namespace: "", path: "/<metrics>", ..base },
                "",
                r#"forbidden: User "alice" cannot get path "/&lt;metrics&gt;""#,
            ),
        ];
        for (attributes, reason, expected) in cases {
            let status = forbidden(&attributes, reason);
            assert_eq!((status.code, status.message.as_str()), (403, expected));
        }
    }
}

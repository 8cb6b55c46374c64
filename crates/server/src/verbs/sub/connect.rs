//! Logs, exec, attach, port-forward and proxies: passed on to whoever answers them.

use http::Request;
use serde_json::{Value, json};
use skiff_client::Body;
use skiff_meta::{GroupVersionKind, Status};

use crate::call::{Answer, Call};
use crate::chain::{ConnectTarget, Operation};
use crate::request::Query;
use crate::write::admit::Admitted;

/// Passes the request on.
pub(crate) async fn connect(call: &mut Call, request: Request<Body>) -> Result<Answer, Status> {
    if call.target.name.is_empty() {
        return Err(Status::no_such_path());
    }
    let rest = match call.target.subresource.as_str() {
        "proxy" => proxied_path(request.uri().path()),
        _ => String::new(),
    };
    if call.target.subresource != "log" {
        let body = call.served.version.subresource(&call.target.subresource).map(|s| s.body.clone());
        let kind = body.unwrap_or_else(|| call.served.version.gvk.clone());
        let options = Value::Null;
        let (name, operation) = (&*call.target.name.clone(), Operation::Connect);
        let admitted = Admitted { operation, kind: &kind, name, old: None, dry_run: false, options: &options };
        let object = asked(&kind, &call.query, &rest);
        admitted.validate(call, Some(&object)).await?;
    }
    let target = ConnectTarget {
        user: call.user.clone(),
        resource: call.served.gvr(),
        subresource: call.target.subresource.clone(),
        namespace: call.namespace().to_owned(),
        name: call.target.name.clone(),
        rest,
    };
    call.api.chain.connector.connect(target, request).await.map(Answer::Raw)
}

/// What is asked for, as an object: `PodExecOptions` and the like.
fn asked(kind: &GroupVersionKind, query: &Query, path: &str) -> Value {
    let mut tree = json!({"kind": kind.kind, "apiVersion": kind.api_version()});
    if !path.is_empty() {
        tree["path"] = json!(path);
    }
    if kind.kind.ends_with("ProxyOptions") {
        return tree;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| query.flag(flag)) {
        tree[flag] = json!(true);
    }
    if let Some(container) = query.get("container") {
        tree["container"] = json!(container);
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        tree["command"] = json!(command);
    }
    let ports: Vec<i32> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        tree["ports"] = json!(ports);
    }
    tree
}

/// What follows `RESOURCE/NAME/proxy`, as it was written.
fn proxied_path(path: &str) -> String {
    // `/api/v1/nodes/NAME/proxy` or `/api/v1/namespaces/NAMESPACE/RESOURCE/NAME/proxy`.
    let before = if path.starts_with("/api/v1/namespaces/") { 8 } else { 6 };
    let end = path.match_indices('/').nth(before - 1).map(|(at, _)| at);
    end.and_then(|at| path.get(at..)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::proxied_path;

    #[test]
    fn what_follows_the_proxy() {
        for (path, rest) in [
            ("/api/v1/nodes/proxy/proxy/a/proxy/b", "/a/proxy/b"),
            ("/api/v1/namespaces/nodes/pods/x/proxy", ""),
            ("/api/v1/namespaces/a/services/https:x:1/proxy/", "/"),
        ] {
            assert_eq!(proxied_path(path), rest, "{path}");
        }
    }
}

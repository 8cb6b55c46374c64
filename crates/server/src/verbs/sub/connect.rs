//! Logs, exec, attach, port-forward and proxies: passed on to whoever answers them.

use http::Request;
use serde_json::json;
use skiff_client::Body;
use skiff_meta::Status;

use crate::call::{Answer, Call};
use crate::chain::{ConnectTarget, Operation};
use crate::write::admit::Admitted;

/// Passes the request on.
pub(crate) async fn connect(call: &mut Call, request: Request<Body>) -> Result<Answer, Status> {
    if call.target.name.is_empty() {
        return Err(Status::no_such_path());
    }
    if call.target.subresource != "log" {
        let body = call.served.version.subresource(&call.target.subresource).map(|s| s.body.clone());
        let kind = body.unwrap_or_else(|| call.served.version.gvk.clone());
        let options = json!({});
        let (name, operation) = (&*call.target.name.clone(), Operation::Connect);
        let admitted = Admitted { operation, kind: &kind, name, old: None, dry_run: false, options: &options };
        admitted.validate(call, None).await?;
    }
    let rest = match call.target.subresource.as_str() {
        "proxy" => proxied_path(request.uri().path()),
        _ => String::new(),
    };
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

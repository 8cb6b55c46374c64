//! What a URL's path means (upstream: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`).

use http::Method;
use percent_encoding::percent_decode_str;
use skiff_meta::GroupVersionResource;

use super::query::Query;

/// A resource path, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; empty for other methods.
    pub(crate) verb: &'static str,
    /// Group, version, resource.
    pub(crate) resource: GroupVersionResource,
    /// Namespace in the path; for namespaces themselves their name.
    pub(crate) namespace: String,
    /// Name in the path, empty for collections.
    pub(crate) name: String,
    /// `status`, `log`, ...; empty mostly.
    pub(crate) subresource: String,
    /// What follows the subresource, without leading slash.
    pub(crate) rest: String,
    /// The one name a collection's field selector allows, which authorization looks at.
    pub(crate) selected_name: String,
}

impl Target {
    /// Whether the request may last as long as its client wants: watches, and connections to pods and nodes.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.verb, "watch" | "proxy")
            || matches!(&*self.subresource, "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    /// The name authorization looks at.
    pub(crate) fn authorized_name(&self) -> &str {
        if self.name.is_empty() { &self.selected_name } else { &self.name }
    }
}

/// The resource that `path` means, or `None` when it is no resource path.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Option<Target> {
    // As upstream: an escaped slash is one like any other, for authorization too.
    let path = decode(path);
    let mut parts: Vec<String> = path.trim_matches('/').split('/').map(str::to_owned).collect();
    let prefix_parts = match parts.first().map(String::as_str) {
        Some("api") => 2,
        Some("apis") => 3,
        _ => return None,
    };
    if parts.len() <= prefix_parts {
        return None;
    }
    let mut tail = parts.split_off(prefix_parts);
    let version = parts.pop().unwrap_or_default();
    let group = if prefix_parts == 3 { parts.pop().unwrap_or_default() } else { String::new() };

    let mut verb = match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    // The old way to ask for a watch, still promised.
    let old_watch = tail.first().is_some_and(|p| p == "watch") && tail.len() > 1;
    if old_watch {
        tail.remove(0);
        verb = "watch";
    }

    let mut namespace = String::new();
    if tail[0] == "namespaces" && tail.len() > 1 {
        namespace.clone_from(&tail[1]);
        let of_namespace = |s: &str| matches!(s, "status" | "finalize");
        if tail.len() > 2 && !of_namespace(&tail[2]) {
            tail.drain(..2);
        }
    }
    let mut tail = tail.into_iter();
    let resource = tail.next().unwrap_or_default();
    let name = tail.next().unwrap_or_default();
    let subresource = tail.next().unwrap_or_default();
    let rest = tail.collect::<Vec<_>>().join("/");

    let mut target = Target {
        verb,
        resource: GroupVersionResource { group, version, resource },
        namespace,
        name,
        subresource,
        rest,
        selected_name: String::new(),
    };
    if target.name.is_empty() {
        refine_collection(&mut target, query);
    } else if old_watch {
        target.selected_name = std::mem::take(&mut target.name);
    }
    Some(target)
}

fn refine_collection(target: &mut Target, query: &Query) {
    match target.verb {
        "get" => target.verb = if query.flag("watch") { "watch" } else { "list" },
        "delete" => target.verb = "deletecollection",
        _ => {}
    }
    if let Some(selector) = query.get("fieldSelector")
        && let Ok(selector) = skiff_meta::selector::FieldSelector::parse(selector)
        && let Some(name) = selector.exact("metadata.name")
        && skiff_meta::names::path_segment(name, false).is_empty()
    {
        target.selected_name = name.to_owned();
    }
}

fn decode(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: Method, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match parse(&method, path, &Query::parse(query)) {
            None => "-".to_owned(),
            Some(t) => {
                let r = &t.resource;
                let slots = [
                    t.verb,
                    &r.group,
                    &r.version,
                    &r.resource,
                    &t.namespace,
                    &t.name,
                    &t.subresource,
                    &t.rest,
                    &t.selected_name,
                ];
                slots.join("|")
            }
        }
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        let get = |uri: &str| told(Method::GET, uri);
        assert_eq!(get("/"), "-");
        assert_eq!(get("/api/v1"), "-");
        assert_eq!(get("/apis/apps/v1"), "-");
        assert_eq!(get("/healthz/ping/x"), "-");
        assert_eq!(get("/api/v1/pods"), "list||v1|pods|||||");
        assert_eq!(get("/api/v1/pods?watch=true"), "watch||v1|pods|||||");
        assert_eq!(get("/api/v1/pods?watch=0"), "list||v1|pods|||||");
        assert_eq!(get("/api/v1/namespaces/a/pods/b"), "get||v1|pods|a|b|||");
        assert_eq!(get("/api/v1/namespaces/a/pods/b/log"), "get||v1|pods|a|b|log||");
        assert_eq!(get("/api/v1/namespaces/a/pods/..%2fsecrets"), "get||v1|pods|a|..|secrets||");
        assert_eq!(get("/api/v1/namespaces/a"), "get||v1|namespaces|a|a|||");
        assert_eq!(get("/api/v1/namespaces/a/status"), "get||v1|namespaces|a|a|status||");
        assert_eq!(get("/api/v1/nodes/n/proxy/a%20b/c"), "get||v1|nodes||n|proxy|a b/c|");
        assert_eq!(get("/api/v1/watch/namespaces/a/pods/b"), "watch||v1|pods|a||||b");
        assert_eq!(get("/apis/apps/v1/namespaces/a/deployments/b/scale"), "get|apps|v1|deployments|a|b|scale||");
        assert_eq!(get("/api/v1/pods?fieldSelector=metadata.name%3Dx"), "list||v1|pods|||||x");
        assert_eq!(told(Method::DELETE, "/api/v1/namespaces/a/pods"), "deletecollection||v1|pods|a||||");
        assert_eq!(told(Method::POST, "/api/v1/namespaces"), "create||v1|namespaces|||||");
        assert_eq!(told(Method::PUT, "/api/v1/namespaces/a/finalize"), "update||v1|namespaces|a|a|finalize||");
    }
}

//! Whether the server is well: `/livez`, `/readyz` and `/healthz`, as a whole and check by check.
//!
//! Names, forms and words are upstream's (`?verbose`, `?exclude=NAME`, `/readyz/etcd`).

use std::sync::atomic::Ordering::Relaxed;

use http::Response;
use skiff_client::Body;

use crate::api::Api;
use crate::request::Query;
use crate::respond;

/// The checks of a page, in their order. A page that is only asked whether to restart us does not look at what passes
/// by itself.
fn checks(page: &str) -> &'static [&'static str] {
    match page {
        "readyz" => &["ping", "etcd", "etcd-readiness", "informer-sync", "shutdown"],
        _ => &["ping", "etcd"],
    }
}

/// Answers for `path`; `None` where there is no such page or check.
pub(crate) async fn serve(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let (page, check) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.strip_prefix('/')?, ""));
    if !matches!(page, "livez" | "readyz" | "healthz") {
        return None;
    }
    if check.is_empty() {
        return (path.len() == page.len() + 1).then_some(whole(api, page, query).await);
    }
    let known = checks(page).iter().find(|known| **known == check)?;
    Some(match passes(api, known).await {
        true => respond::text(200, "ok"),
        false => respond::text(500, format!("internal server error: {check} check failed\n")),
    })
}

async fn passes(api: &Api, check: &str) -> bool {
    match check {
        "etcd" | "etcd-readiness" => api.store.revision().await.is_ok(),
        "informer-sync" => api.feed.catch_up().await.is_ok(),
        // Whoever asks before sending requests here must hear first that we are going.
        "shutdown" => !api.stopping.load(Relaxed),
        _ => true,
    }
}

async fn whole(api: &Api, page: &str, query: &Query) -> Response<Body> {
    let mut lines = String::new();
    let mut healthy = true;
    for check in checks(page) {
        let (sign, outcome) = if query.all("exclude").any(|excluded| excluded == *check) {
            ('+', "excluded: ok")
        } else if passes(api, check).await {
            ('+', "ok")
        } else {
            healthy = false;
            ('-', "failed: reason withheld")
        };
        lines.push_str(&format!("[{sign}]{check} {outcome}\n"));
    }
    let mut unknown: Vec<_> = query.all("exclude").filter(|name| !checks(page).contains(name)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    match (healthy, query.get("verbose").is_some()) {
        (true, false) => respond::text(200, "ok"),
        (true, true) => respond::text(200, format!("{lines}{page} check passed\n")),
        (false, _) => respond::text(500, format!("{lines}{page} check failed\n")),
    }
}

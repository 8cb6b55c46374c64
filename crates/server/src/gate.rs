//! Who asks and whether they may: authentication, impersonation, flow control, authorization.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, header};
use skiff_client::Body;
use skiff_meta::Status;

use crate::api::Api;
use crate::audit::Record;
use crate::chain::{Attributes, Decision, Identity, User};
use crate::flow::{Classified, Digest, Permit, Size};
use crate::request::{Query, Target, go_words};
use crate::respond;

impl Api {
    /// Who sends a request.
    pub(crate) async fn authenticate(
        &self,
        identity: &Identity,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Arc<User>, Status> {
        match identity {
            Identity::Bound(user) => Ok(user.clone()),
            Identity::Peer(peer) => self.chain.authenticator.authenticate(path, headers, peer).await,
        }
    }

    /// Whom it acts for.
    pub(crate) async fn impersonate(
        &self,
        headers: &HeaderMap,
        user: Arc<User>,
        record: Option<&Record>,
    ) -> Result<Arc<User>, Status> {
        let other = crate::auth::impersonate(headers, user.clone(), &*self.chain.authorizer).await?;
        if let Some(record) = record.filter(|_| !Arc::ptr_eq(&user, &other)) {
            record.impersonated(&other);
        }
        Ok(other)
    }

    /// How long a request may take; `None`: as long as it lasts.
    pub(crate) fn limit(&self, target: Option<&Target>, query: &Query) -> Result<Option<Duration>, Status> {
        if target.is_some_and(Target::is_long) {
            return Ok(None);
        }
        let most = self.config.request_timeout;
        let wanted = go_words::duration(query.text("timeout"))
            .map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
        Ok(Some(wanted.filter(|wanted| !wanted.is_zero() && *wanted < most).unwrap_or(most)))
    }

    /// A seat for a request; what to answer when there is none. Connections to pods and nodes need none.
    pub(crate) async fn permit(
        &self,
        digest: &Digest<'_>,
        user: &Arc<User>,
        query: &Query,
        limit: Option<Duration>,
    ) -> (Option<Classified>, Result<Permit, Response<Body>>) {
        let target = digest.target;
        if target.is_some_and(|t| t.is_long() && t.verb != "watch") {
            return (None, Ok(Permit::default()));
        }
        let writes = !matches!(digest.verb, "get" | "list" | "watch");
        let Some(flow) = &self.flow else {
            let (reads, most) = self.config.max_in_flight;
            // The server's own and its administrators' requests are counted, not refused.
            let most = if user.is_in("system:masters") {
                u32::MAX
            } else if writes {
                most
            } else {
                reads
            };
            let counted = self.in_flight.count(writes, most).ok_or_else(|| too_many(1));
            return (None, counted.map(|counted| Permit::new(None, Some(counted))));
        };
        // As upstream: a quarter of its time.
        let patience = limit.unwrap_or(self.config.request_timeout) / 4;
        let (classified, seat) = flow.seat(digest, user, || self.size(target, query), patience).await;
        let permit = seat.map_err(too_many);
        let counted = self.in_flight.count(writes, u32::MAX);
        (Some(classified), permit.map(|seat| Permit::new(Some(seat), counted)))
    }

    /// How much a request asks for.
    fn size(&self, target: Option<&Target>, query: &Query) -> Size {
        let Some(target) = target.filter(|t| t.verb != "get") else { return Size::One };
        let registry = self.catalog.registry();
        let Some(cache) = registry.find(&target.resource).and_then(|served| served.resource.cache.as_ref()) else {
            return Size::One;
        };
        let list = || {
            let (objects, bytes) = cache.size();
            let limit = query.get("limit").and_then(|l| l.parse().ok()).filter(|l| *l > 0).unwrap_or(u64::MAX);
            let one = !target.authorized_name().is_empty();
            Size::List(if one { 1 } else { objects.min(limit) }, bytes)
        };
        match target.verb {
            "list" => list(),
            "watch" => {
                let from_state = matches!(query.text("resourceVersion"), "" | "0");
                if query.flag("sendInitialEvents") || from_state { list() } else { Size::One }
            }
            "create" | "update" | "patch" | "delete" if target.subresource != "token" => {
                let key = match (&*target.namespace, &*target.name) {
                    (_, "") => String::new(),
                    ("", name) => name.to_owned(),
                    (namespace, name) => format!("{namespace}/{name}"),
                };
                Size::Write(cache.watchers_of(&target.namespace, &key))
            }
            _ => Size::One,
        }
    }

    /// Ok when the authorizer allows it, 403 otherwise.
    pub(crate) async fn allow(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        self.allow_recorded(attributes, None).await
    }

    async fn allow_recorded(&self, attributes: &Attributes<'_>, record: Option<&Record>) -> Result<(), Status> {
        let (decision, why, answer) = match self.chain.authorizer.authorize(attributes).await {
            Decision::Allow(why) => ("allow", why, Ok(())),
            Decision::Deny(why) | Decision::NoOpinion(why) => {
                let refusal = crate::auth::forbidden(attributes, &why);
                ("forbid", why, Err(refusal))
            }
        };
        if let Some(record) = record {
            record.annotate("authorization.k8s.io/decision", decision);
            record.annotate("authorization.k8s.io/reason", &why);
        }
        answer
    }

    /// Authorizes a request for a resource.
    pub(crate) async fn allow_target(
        &self,
        user: &User,
        target: &Target,
        query: &Query,
        path: &str,
        record: Option<&Record>,
    ) -> Result<(), Status> {
        let selects = matches!(target.verb, "list" | "watch" | "deletecollection");
        let attributes = Attributes {
            user,
            verb: target.verb,
            group: &target.resource.group,
            version: &target.resource.version,
            resource: &target.resource.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: target.authorized_name(),
            fields: if selects { query.text("fieldSelector") } else { "" },
            labels: if selects { query.text("labelSelector") } else { "" },
            path,
        };
        self.allow_recorded(&attributes, record).await
    }

    /// Authorizes a request for a path that is no resource.
    pub(crate) async fn allow_path(
        &self,
        user: &User,
        method: &str,
        path: &str,
        record: Option<&Record>,
    ) -> Result<(), Status> {
        let (group, version, resource, subresource) = ("", "", "", "");
        let (namespace, name, fields, labels) = ("", "", "", "");
        let verb = method;
        let attributes =
            Attributes { user, verb, group, version, resource, subresource, namespace, name, fields, labels, path };
        self.allow_recorded(&attributes, record).await
    }
}

fn too_many(seconds: u64) -> Response<Body> {
    let mut response = respond::text(429, "Too many requests, please try again later.\n");
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

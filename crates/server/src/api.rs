//! The server without its sockets: one function from request to response.
//!
//! HTTPS and components of the same process come in through [`Api::handle`] alike. Nothing here needs a socket or a
//! Tokio runtime, so that a whole cluster can run in a simulation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_client::Body;
use skiff_meta::world::{AbortOnDrop, WorldExt};
use skiff_meta::{Status, TraceContext, WorldRef};
use skiff_store::Store;

use crate::audit::{self, Asks, Audit, Level, Record, Stage};
use crate::cache::feed::Feed;
use crate::call::{Answer, Call};
use crate::chain::{Chain, Identity, User, View};
use crate::config::ServerConfig;
use crate::encryption::Sealed;
use crate::error::ServerError;
use crate::flow::inflight::InFlight;
use crate::flow::{Classified, Digest, FlowControl, held};
use crate::metrics::{Metrics, Told};
use crate::openapi::kept::Kept;
use crate::pki::Pki;
use crate::request::media::{Offer, for_faults, is_unroutable};
use crate::request::{Accept, Encoding, ListOptions, Query, Target, target};
use crate::resource::Served;
use crate::resource::catalog::Catalog;
use crate::respond::body::full;
use crate::view::CacheView;
use crate::webhooks::client::HookClient;
use crate::write::leases::Leases;
use crate::{deadline, error, respond, verbs};

/// The server.
pub struct Api {
    pub(crate) config: ServerConfig,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) world: WorldRef,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) view: Arc<dyn View>,
    pub(crate) chain: Chain,
    pub(crate) leases: Leases,
    pub(crate) metrics: Metrics,
    /// Seats, unless requests are only counted.
    pub(crate) flow: Option<Arc<FlowControl>>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) audit: Option<Arc<Audit>>,
    /// The way to conversion webhooks.
    pub(crate) hooks: HookClient,
    /// OpenAPI documents that were asked for a moment ago.
    pub(crate) documents: Kept,
    /// The server is about to end.
    pub(crate) stopping: AtomicBool,
    /// What runs as long as the server does.
    tasks: Mutex<Vec<AbortOnDrop>>,
}

/// Makes the chain once there is a view.
pub type ChainMaker<'a> =
    &'a (dyn Fn(&ServerConfig, Arc<dyn View>, &WorldRef) -> Result<Chain, ServerError> + Send + Sync);

impl Api {
    /// A server that follows the store, with the cluster's own certificates, tokens, roles and admission.
    ///
    /// # Errors
    /// When the store cannot be read, or what must exist from the first start on cannot be made.
    pub async fn new(
        config: ServerConfig,
        pki: &Pki,
        store: Arc<dyn Store>,
        world: WorldRef,
    ) -> Result<Arc<Self>, ServerError> {
        let chain = |config: &ServerConfig, view: Arc<dyn View>, world: &WorldRef| {
            crate::auth::chain(config, pki, view, world.clone()).map_err(ServerError::from)
        };
        Self::with_chain(config, store, world, &chain).await
    }

    /// The same with judges of one's own.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub async fn with_chain(
        config: ServerConfig,
        store: Arc<dyn Store>,
        world: WorldRef,
        chain: ChainMaker<'_>,
    ) -> Result<Arc<Self>, ServerError> {
        let audit = config.audit.clone().map(|audit| Audit::open(audit, &world)).transpose()?;
        let store = match config.encryption.clone() {
            Some(keys) => Sealed::shared(store, keys),
            None => store,
        };
        let catalog = Catalog::new();
        let feed = Feed::new(store.clone(), world.clone());
        let view: Arc<dyn View> = Arc::new(CacheView { catalog: catalog.clone(), feed: feed.clone() });
        let chain = chain(&config, view.clone(), &world)?;
        let following = feed.start(catalog.clone()).await?;
        let (reads, writes) = config.max_in_flight;
        let flow = config.priority_and_fairness.then(|| FlowControl::new(world.clone(), reads + writes));
        let api = Arc::new(Self {
            hooks: HookClient::new(world.clone(), "kube-apiserver", Default::default()),
            config,
            store,
            world,
            catalog,
            feed,
            view,
            chain,
            leases: Leases::default(),
            metrics: Metrics::default(),
            flow,
            in_flight: Arc::default(),
            audit,
            documents: Kept::default(),
            stopping: AtomicBool::new(false),
            tasks: Mutex::new(vec![following]),
        });
        crate::bootstrap::run(&api).await?;
        if api.config.shared_store {
            crate::write::services::adopt(&api).await?;
        }
        let publishing = crate::servers::start(&api).await?;
        let started = crate::definitions::start(&api)
            .into_iter()
            .chain(publishing)
            .chain(crate::policies::typing::start(&api))
            .chain(crate::identity::start(&api))
            .chain(crate::flow::keeper::start(&api))
            .chain(crate::tokens::start(&api))
            .chain(crate::write::services::repair::start(&api))
            .chain(crate::proxy::aggregate::keeper::start(&api));
        api.tasks.lock().extend(started.map(AbortOnDrop));
        Ok(api)
    }

    /// Answers a request.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>, identity: Identity) -> Response<Body> {
        let begun = self.world.elapsed();
        let mut told = Told::default();
        let (mut parts, body) = request.into_parts();
        let trace = self.trace(&parts.headers);
        let encoding = for_faults(&parts.headers);
        let id = audit_id(&parts.headers).unwrap_or_else(|| self.world.uuid());
        let result = self.answer(&mut parts, body, &identity, (&id, trace), &mut told).await;
        if let (Err(status), Some(_)) = (&result, &told.record) {
            told.status = serde_json::to_value(status).ok();
        }
        let mut response = result.unwrap_or_else(|status| respond::status(&status, encoding));
        let headers = response.headers_mut();
        if let Some(Classified { schema, level }) = told.classified.take() {
            headers.insert("x-kubernetes-pf-flowschema-uid", schema);
            headers.insert("x-kubernetes-pf-prioritylevel-uid", level);
        }
        headers.insert("audit-id", HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("")));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        respond::warn_all(headers, &told.warnings);
        let took = self.world.elapsed().saturating_sub(begun);
        let code = response.status().as_u16();
        tracing::debug!(method = %parts.method, path = parts.uri.path(), code, user = %told.user, ?took, %trace, "request");
        if let Some(counters) = &told.counters {
            counters.add(code, took, told.waited);
        }
        match told.record.take() {
            Some(record) => self.recorded(record, &told, response).await,
            None => response,
        }
    }

    /// Writes down what came of a request; of an endless one, that it has begun, and its end when it comes.
    async fn recorded(&self, record: Arc<Record>, told: &Told, response: Response<Body>) -> Response<Body> {
        record.outcome(response.status().as_u16(), told.status.as_ref());
        if let Some(status) = &told.status {
            record.response(status.clone());
        }
        if !told.endless {
            record.write(Stage::ResponseComplete).await;
            return response;
        }
        record.write(Stage::ResponseStarted).await;
        response.map(|body| audit::watch(body, record, self.world.clone()))
    }

    fn trace(&self, headers: &http::HeaderMap) -> TraceContext {
        let given = headers.get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let random = || self.world.random();
        given.map_or_else(|| TraceContext::root(random), |t: TraceContext| t.child(random))
    }

    /// Answers within the time there is, and whatever happens: a fault in one request is that request's alone.
    async fn answer(
        self: &Arc<Self>,
        parts: &mut http::request::Parts,
        body: Body,
        identity: &Identity,
        (id, trace): (&str, TraceContext),
        told: &mut Told,
    ) -> Result<Response<Body>, Status> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let target = target::parse(&parts.method, parts.uri.path(), &query);
        let limit = self.limit(target.as_ref(), &query)?;
        told.endless = limit.is_none();
        let asked = Asked { id, target, query, limit, identity, trace };
        let answering = AssertUnwindSafe(self.route(parts, body, asked, told)).catch_unwind();
        let answered = match limit {
            Some(limit) => deadline::within(&*self.world, limit, answering).await,
            None => Some(answering.await),
        };
        match answered {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => {
                self.metrics.panics.fetch_add(1, Relaxed);
                tracing::error!(method = %parts.method, path = parts.uri.path(), "a request caused a panic");
                if let Some(record) = told.record.take() {
                    let status = Status::internal("APIServer panic'd");
                    record.outcome(500, serde_json::to_value(status).ok().as_ref());
                    record.write(Stage::Panic).await;
                }
                let text = "This request caused apiserver to panic. Look in the logs for details.\n";
                Ok(respond::text(500, text))
            }
            None => {
                self.metrics.timeouts.fetch_add(1, Relaxed);
                Err(Status::timeout("request did not complete within the allotted timeout"))
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        parts: &mut http::request::Parts,
        body: Body,
        asked: Asked<'_>,
        told: &mut Told,
    ) -> Result<Response<Body>, Status> {
        let Asked { id, target, query, limit, identity, trace } = asked;
        let path = parts.uri.path();
        let method = match &target {
            Some(_) => String::new(),
            None => parts.method.as_str().to_ascii_lowercase(),
        };
        let verb = target.as_ref().map_or(method.as_str(), |target| target.verb);
        let uri = parts.uri.path_and_query().map_or(path, |uri| uri.as_str());
        let received = self.world.now();
        let asks = |user| {
            let digest = Digest { user, verb, target: target.as_ref(), path };
            Asks { id, received, digest, uri, headers: &parts.headers, identity }
        };
        let user = match self.authenticate(identity, path, &parts.headers).await {
            Ok(user) => user,
            Err(status) => {
                if let Some(audit) = &self.audit {
                    audit.unauthenticated(asks(&User::default()), &status).await;
                }
                return Err(status);
            }
        };
        if let Some(audit) = &self.audit {
            told.record = audit.begin(asks(&user)).await?;
        }
        let record = told.record.clone();
        let user = self.impersonate(&parts.headers, user, record.as_deref()).await?;
        told.user.clone_from(&user.name);
        let digest = Digest { user: &user, verb, target: target.as_ref(), path };
        let before = self.world.elapsed();
        let (classified, permit) = self.permit(&digest, &user, &query, limit).await;
        told.waited = self.world.elapsed().saturating_sub(before);
        told.classified = classified;
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => {
                self.metrics.refused.fetch_add(1, Relaxed);
                return Ok(refusal);
            }
        };
        let Some(target) = target else {
            self.allow_path(&user, &method, path, record.as_deref()).await?;
            if let Some(extension) = self.chain.aggregator.find(path) {
                return self.chain.aggregator.serve(&extension, &user, rejoined(parts, body)).await;
            }
            return crate::paths::serve(self, &parts.method, path, &parts.headers, &query).await;
        };
        self.allow_target(&user, &target, &query, path, record.as_deref()).await?;
        if let Some(extension) = self.chain.aggregator.find(path) {
            return self.chain.aggregator.serve(&extension, &user, rejoined(parts, body)).await;
        }
        if target.subresource == "why" && target.resource.resource == "pods" && target.resource.group.is_empty() {
            return self.why(&target).await;
        }
        let Some(served) = self.find(&target).await? else { return self.no_resource(&target) };
        check_verb(&served, &target, &parts.method)?;
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
        let applies = media.starts_with("application/apply-patch");
        told.counters = Some(self.metrics.of(&target, applies, !query.text("dryRun").is_empty()));
        let accept = negotiate(&served, &target, &parts.headers, &query);
        if let Some(warning) = &served.version.deprecation
            && !accept.as_ref().is_err_and(is_unroutable)
        {
            told.warnings.push(warning.clone());
        }
        let mut accept = accept?;
        let bodies = record.as_ref().is_some_and(|record| record.level() == Level::RequestResponse);
        accept.gzip &= !bodies;
        let (headers, api) = (std::mem::take(&mut parts.headers), self.clone());
        let (moment, warnings, annotations) = (None, Vec::new(), BTreeMap::new());
        let mut call = Call {
            api,
            user,
            target,
            served,
            query,
            headers,
            accept,
            trace,
            moment,
            warnings,
            annotations,
            record,
            permit,
        };
        let answer = verbs::dispatch(&mut call, parts, body).await;
        told.warnings.append(&mut call.warnings);
        let mut answer = answer;
        if let Some(record) = &call.record {
            record.annotate_all(&call.annotations);
            answer = match answer {
                Ok(answer) if bodies => Ok(recorded_body(&call, record, answer).await?),
                other => other,
            };
        }
        match answer? {
            Answer::Raw(response) => Ok(match limit {
                Some(limit) => response.map(|body| held::hold(body, call.permit, &*self.world, limit)),
                None => response,
            }),
            Answer::Object(code, object) => respond::object(&call, code, &*call.in_version(&object).await?),
            Answer::Tree(code, tree) => {
                if tree.get("kind").is_some_and(|kind| kind == "Status") {
                    told.status = Some(tree.clone());
                }
                respond::tree(&call, code, tree)
            }
        }
    }

    /// Why a pod is where it is: not a part of any object, and not upstream's, so that no document lists it.
    async fn why(&self, target: &Target) -> Result<Response<Body>, Status> {
        let explainer =
            self.config.explainer.as_ref().filter(|_| target.verb == "get").ok_or_else(Status::no_such_path)?;
        let pods = skiff_meta::GroupResource::new("", "pods");
        let why = explainer.why(&target.namespace, &target.name).await;
        let why = why.ok_or_else(|| Status::not_found(&pods, &target.name))?;
        Ok(respond::whole(200, "application/json", respond::encode::json(&why, false), false))
    }

    /// The resource a path means. A definition may have been acknowledged a moment ago, so a miss looks twice.
    async fn find(&self, target: &Target) -> Result<Option<Served>, Status> {
        if let Some(served) = self.catalog.registry().find(&target.resource) {
            return Ok(Some(served.clone()));
        }
        self.feed.catch_up().await.map_err(|e| error::catch_up(&e))?;
        Ok(self.catalog.registry().find(&target.resource).cloned())
    }

    /// A group that exists has a router, which answers in its own words.
    fn no_resource(&self, target: &Target) -> Result<Response<Body>, Status> {
        let group = &target.resource.group;
        if group.is_empty() || self.catalog.registry().groups().iter().any(|g| g.name == *group) {
            return Err(Status::no_such_path());
        }
        Ok(respond::no_page())
    }

    /// Where clients reach this server.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.config.advertise, self.config.bind.port())
    }

    /// Ends all watches, at shutdown; their clients find another server or none.
    pub(crate) fn end_watches(&self) {
        for resource in self.catalog.registry().resources() {
            if let Some(cache) = &resource.cache {
                cache.end_watches();
            }
        }
    }

    /// Somebody of this process, with the rights of `user`.
    pub fn backend(self: &Arc<Self>, user: User) -> Arc<dyn skiff_client::Backend> {
        crate::backend::InProcess::shared(self.clone(), user)
    }

    /// The cache, for those who judge by it.
    pub fn view(&self) -> Arc<dyn View> {
        self.view.clone()
    }
}

/// Tells the audit log what an answer says. Lists are made whole for it.
async fn recorded_body(call: &Call, record: &Record, answer: Answer) -> Result<Answer, Status> {
    match answer {
        Answer::Object(code, object) => {
            record.response(call.show(&object).await?);
            Ok(Answer::Object(code, object))
        }
        Answer::Tree(code, tree) => {
            record.response(tree.clone());
            Ok(Answer::Tree(code, tree))
        }
        Answer::Raw(response) if call.target.verb == "list" && call.accept.encoding == Encoding::Json => {
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
            if let Ok(list) = serde_json::from_slice(&bytes) {
                record.response(list);
            }
            Ok(Answer::Raw(Response::from_parts(parts, full(bytes))))
        }
        raw => Ok(raw),
    }
}

/// What a request's head says.
struct Asked<'a> {
    id: &'a str,
    target: Option<Target>,
    query: Query,
    limit: Option<Duration>,
    identity: &'a Identity,
    trace: TraceContext,
}

/// The request as it came, for somebody else to answer.
fn rejoined(parts: &mut http::request::Parts, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    *request.extensions_mut() = std::mem::take(&mut parts.extensions);
    request
}

fn audit_id(headers: &http::HeaderMap) -> Option<String> {
    let given = headers.get("audit-id")?.to_str().ok()?;
    (!given.is_empty() && given.len() <= 64).then(|| given.to_owned())
}

/// Whether resource or subresource knows the verb.
fn check_verb(served: &Served, target: &Target, method: &Method) -> Result<(), Status> {
    let verbs = if target.subresource.is_empty() {
        served.version.verbs
    } else {
        served.version.subresource(&target.subresource).ok_or_else(Status::no_such_path)?.verbs
    };
    // Creating needs no name, deleting one object does not need its collection's verb; namespaced resources cannot be
    // created across namespaces.
    let homeless = served.resource.namespaced && target.namespace.is_empty();
    let named = !target.name.is_empty();
    let fits = match target.verb {
        "create" if target.subresource.is_empty() => !named && !homeless,
        "get" | "update" | "patch" | "delete" => named && !homeless,
        "deletecollection" => !homeless,
        _ => true,
    };
    let known = match target.subresource.as_str() {
        "proxy" => *method != Method::TRACE,
        "exec" | "attach" | "portforward" => matches!(*method, Method::GET | Method::POST),
        // Routes of built-in kinds are for GET alone.
        _ if *method == Method::HEAD && !served.resource.custom => false,
        _ => verbs.contains(&target.verb),
    };
    if fits && known {
        return Ok(());
    }
    Err(method_not_allowed())
}

/// As upstream's router says it.
pub(crate) fn method_not_allowed() -> Status {
    let mut status =
        Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    status.details = Some(Box::default());
    status
}

fn negotiate(served: &Served, target: &Target, headers: &http::HeaderMap, query: &Query) -> Result<Accept, Status> {
    let stream = target.verb == "watch";
    let list = matches!(target.verb, "list" | "watch" | "deletecollection");
    let streams = matches!(target.verb, "list" | "watch");
    let raw = matches!(target.subresource.as_str(), "log" | "proxy" | "exec" | "attach" | "portforward");
    if raw {
        return Ok(Accept::JSON);
    }
    let routed = !served.resource.custom;
    // Questions are answered as such.
    let tables = target.verb != "create" || target.subresource.is_empty() && served.resource.cache.is_some();
    let offer = Offer { protobuf: served.version.protobuf, stream, streams, list, shapes: true, tables, routed };
    let pretty = query.get("pretty").map(|_| query.flag("pretty"));
    Accept::negotiate(headers, pretty, offer).or_else(|status| {
        // What is wrong with the options of a watch is told before its form.
        if stream && !is_unroutable(&status) && query.get("watch").is_some() {
            ListOptions::parse(query)?;
        }
        Err(status)
    })
}

//! What the server counts, in Prometheus' text form at `/metrics`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::api::Api;
use crate::audit::Record;
use crate::request::Target;

/// Upper bounds of the duration buckets, in seconds (upstream's, thinned out).
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 20.0, 60.0];

/// What is learned of a request on its way.
#[derive(Default)]
pub(crate) struct Told {
    /// Said beside the answer.
    pub(crate) warnings: Vec<String>,
    /// Who asked.
    pub(crate) user: String,
    /// Where it stood in line.
    pub(crate) classified: Option<crate::flow::Classified>,
    /// What is written down of it.
    pub(crate) record: Option<Arc<Record>>,
    /// It lasts as long as its client wants.
    pub(crate) endless: bool,
    /// The `Status` that is its answer.
    pub(crate) status: Option<serde_json::Value>,
    /// Where it is counted. Requests that reach no resource are not: nobody can grow the tables at will.
    pub(crate) counters: Option<Arc<Counters>>,
}

/// The requests of one verb on one resource.
pub(crate) struct Counters {
    labels: String,
    endless: bool,
    codes: Mutex<Vec<(u16, u64)>>,
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
}

impl Counters {
    fn new(target: &Target) -> Self {
        // Upstream counts by method where it has a name of its own.
        let verb = match target.verb {
            "create" => "POST".to_owned(),
            "update" => "PUT".to_owned(),
            verb => verb.to_ascii_uppercase(),
        };
        let resource = &target.resource;
        let (group, version, name) = (&resource.group, &resource.version, &resource.resource);
        let subresource = &target.subresource;
        let labels = format!(
            "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{name}\",subresource=\"{subresource}\""
        );
        Self {
            labels,
            endless: target.verb == "watch",
            codes: Mutex::default(),
            buckets: Default::default(),
            micros: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Counts a request.
    pub(crate) fn add(&self, code: u16, took: Duration) {
        let mut codes = self.codes.lock();
        match codes.iter_mut().find(|(c, _)| *c == code) {
            Some((_, count)) => *count += 1,
            None => codes.push((code, 1)),
        }
        drop(codes);
        if self.endless {
            return;
        }
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    fn write_codes(&self, out: &mut String) {
        for (code, count) in &*self.codes.lock() {
            let _ = writeln!(out, "apiserver_request_total{{{},code=\"{code}\"}} {count}", self.labels);
        }
    }

    fn write_durations(&self, out: &mut String) {
        let (labels, count) = (&self.labels, self.count.load(Relaxed));
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            let _ = writeln!(out, "{DURATION}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let sum = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{DURATION}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{DURATION}_sum{{{labels}}} {sum}\n{DURATION}_count{{{labels}}} {count}");
    }
}

const DURATION: &str = "apiserver_request_duration_seconds";

/// All counters, by a hash of what they count.
#[derive(Default)]
pub(crate) struct Metrics {
    all: RwLock<HashMap<u64, Arc<Counters>>>,
    /// Requests that ended in a panic.
    pub(crate) panics: AtomicU64,
    /// Requests that took too long.
    pub(crate) timeouts: AtomicU64,
}

impl Metrics {
    /// The counters of a request that is known to reach a resource.
    pub(crate) fn of(&self, target: &Target) -> Arc<Counters> {
        let mut hasher = DefaultHasher::new();
        (target.verb, &target.resource, &target.subresource).hash(&mut hasher);
        let key = hasher.finish();
        if let Some(found) = self.all.read().get(&key) {
            return found.clone();
        }
        self.all.write().entry(key).or_insert_with(|| Arc::new(Counters::new(target))).clone()
    }

    /// The text form.
    pub(crate) fn text(&self, api: &Api) -> String {
        let mut out = String::new();
        let mut all: Vec<Arc<Counters>> = self.all.read().values().cloned().collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        out.push_str("# HELP apiserver_request_total Requests by verb, resource and code.\n");
        out.push_str("# TYPE apiserver_request_total counter\n");
        all.iter().for_each(|c| c.write_codes(&mut out));
        let _ = writeln!(out, "# HELP {DURATION} Time to answer, by verb and resource.\n# TYPE {DURATION} histogram");
        all.iter().for_each(|c| c.write_durations(&mut out));
        let single = [
            ("skiff_request_panics_total", "Requests that ended in a panic.", &self.panics),
            ("skiff_request_timeouts_total", "Requests that took longer than they may.", &self.timeouts),
        ];
        for (name, help, count) in single {
            let count = count.load(Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}");
        }
        api.in_flight.write_metrics(&mut out);
        if let Some(audit) = &api.audit {
            audit.write_metrics(&mut out);
        }
        if let Some(flow) = &api.flow {
            flow.write_metrics(&mut out);
        }
        api.chain.admission.iter().for_each(|plugin| plugin.metrics(&mut out));
        write_objects(api, &mut out);
        out
    }
}

fn write_objects(api: &Api, out: &mut String) {
    let registry = api.catalog.registry();
    let mut objects = String::from(
        "# HELP apiserver_storage_objects Objects per resource.\n# TYPE apiserver_storage_objects gauge\n",
    );
    let mut watchers = String::from(
        "# HELP apiserver_longrunning_requests Open watches per resource.\n# TYPE apiserver_longrunning_requests gauge\n",
    );
    for resource in registry.resources() {
        let Some(cache) = &resource.cache else { continue };
        let (group, name) = (&resource.id.group, &resource.id.resource);
        let _ = writeln!(objects, "apiserver_storage_objects{{group=\"{group}\",resource=\"{name}\"}} {}", cache.len());
        let open = cache.watcher_count();
        if open > 0 {
            let labels = format!("verb=\"WATCH\",group=\"{group}\",resource=\"{name}\"");
            let _ = writeln!(watchers, "apiserver_longrunning_requests{{{labels}}} {open}");
        }
    }
    out.push_str(&objects);
    out.push_str(&watchers);
    let _ = writeln!(
        out,
        "# HELP skiff_cache_revision The store's revision that the caches have reached.\n# TYPE skiff_cache_revision gauge\nskiff_cache_revision {}",
        api.feed.revision()
    );
}

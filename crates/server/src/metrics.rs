//! What the server counts, in Prometheus' text form at `/metrics`, under upstream's names.

pub(crate) mod histogram;
mod process;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use skiff_meta::GroupVersionResource;

use crate::api::Api;
use crate::audit::Record;
use crate::request::Target;

/// Upper bounds of the duration buckets, in seconds: upstream's.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

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
    /// How long it stood in line.
    pub(crate) waited: Duration,
    /// The `Status` that is its answer.
    pub(crate) status: Option<serde_json::Value>,
    /// Where it is counted. Requests that reach no resource are not: nobody can grow the tables at will.
    pub(crate) counters: Option<Arc<Counters>>,
}

/// What requests are told apart by.
#[derive(Hash)]
struct Sort<'a> {
    verb: &'static str,
    resource: &'a GroupVersionResource,
    subresource: &'a str,
    scope: &'static str,
    dry_run: bool,
}

impl<'a> Sort<'a> {
    fn new(target: &'a Target, applies: bool, dry_run: bool) -> Self {
        let verb = match (target.verb, &*target.subresource) {
            (_, "attach" | "exec" | "log" | "portforward" | "proxy") => "CONNECT",
            ("create", _) => "POST",
            ("update", _) => "PUT",
            ("patch", _) if applies => "APPLY",
            ("patch", _) => "PATCH",
            ("get", _) => "GET",
            ("list", _) => "LIST",
            ("watch", _) => "WATCH",
            ("deletecollection", _) => "DELETECOLLECTION",
            _ => "DELETE",
        };
        let scope = match (&*target.name, &*target.namespace) {
            ("", "") if verb != "POST" => "cluster",
            ("", _) if verb != "POST" => "namespace",
            _ => "resource",
        };
        Self { verb, resource: &target.resource, subresource: &target.subresource, scope, dry_run }
    }

    /// Under which its counters are found: each request looks, so nothing is copied for that.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// As labels, without whether it was a dry run.
    fn labels(&self) -> String {
        let Self { verb, resource, subresource, scope, .. } = self;
        let (group, version, name) = (&resource.group, &resource.version, &resource.resource);
        format!(
            "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{name}\",\
             subresource=\"{subresource}\",scope=\"{scope}\",component=\"apiserver\""
        )
    }
}

/// The requests of one sort.
pub(crate) struct Counters {
    labels: String,
    dry_run: &'static str,
    endless: bool,
    codes: Mutex<Vec<(u16, u64)>>,
    /// From the first byte to the answer, and the same without the time in line.
    whole: Durations,
    served: Durations,
}

#[derive(Default)]
struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
}

impl Durations {
    fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// Writes the histogram, from the bucket `first` on.
    fn write(&self, out: &mut String, name: &str, labels: &str, first: f64) {
        let count = self.count.load(Relaxed);
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            if *bound >= first {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
            }
        }
        let sum = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

impl Counters {
    fn new(sort: &Sort<'_>) -> Self {
        Self {
            labels: sort.labels(),
            dry_run: if sort.dry_run { "All" } else { "" },
            endless: matches!(sort.verb, "WATCH" | "CONNECT"),
            codes: Mutex::default(),
            whole: Durations::default(),
            served: Durations::default(),
        }
    }

    /// Counts a request that was answered after so long, of which it `waited` in line.
    pub(crate) fn add(&self, code: u16, took: Duration, waited: Duration) {
        let mut codes = self.codes.lock();
        match codes.iter_mut().find(|(c, _)| *c == code) {
            Some((_, count)) => *count += 1,
            None => codes.push((code, 1)),
        }
        drop(codes);
        if !self.endless {
            self.whole.add(took);
            if self.dry_run.is_empty() {
                self.served.add(took.saturating_sub(waited));
            }
        }
    }

    fn write_codes(&self, out: &mut String) {
        let Self { labels, dry_run, .. } = self;
        for (code, count) in &*self.codes.lock() {
            let _ = writeln!(out, "apiserver_request_total{{{labels},dry_run=\"{dry_run}\",code=\"{code}\"}} {count}");
        }
    }

    fn write_durations(&self, out: &mut String) {
        self.whole.write(out, DURATION, &format!("{},dry_run=\"{}\"", self.labels, self.dry_run), 0.0);
    }
}

const DURATION: &str = "apiserver_request_duration_seconds";
const SLI: &str = "apiserver_request_sli_duration_seconds";
/// Upstream has no finer buckets there.
const SLI_FIRST: f64 = 0.05;

/// All counters, by a hash of what they count.
#[derive(Default)]
pub(crate) struct Metrics {
    all: RwLock<HashMap<u64, Arc<Counters>>>,
    /// Requests that ended in a panic.
    pub(crate) panics: AtomicU64,
    /// Requests that took too long, and those that found no seat.
    pub(crate) timeouts: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Metrics {
    /// The counters of a request that is known to reach a resource.
    pub(crate) fn of(&self, target: &Target, applies: bool, dry_run: bool) -> Arc<Counters> {
        let sort = Sort::new(target, applies, dry_run);
        let key = sort.key();
        if let Some(found) = self.all.read().get(&key) {
            return found.clone();
        }
        self.all.write().entry(key).or_insert_with(|| Arc::new(Counters::new(&sort))).clone()
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
        let _ = writeln!(out, "# HELP {SLI} The same without the time in line.\n# TYPE {SLI} histogram");
        all.iter().for_each(|c| c.served.write(&mut out, SLI, &c.labels, SLI_FIRST));
        let name = "apiserver_request_terminations_total";
        let _ = writeln!(out, "# HELP {name} Requests given up to protect the server.\n# TYPE {name} counter");
        for (code, count) in [(429, &self.refused), (504, &self.timeouts)] {
            let count = count.load(Relaxed);
            let _ = writeln!(out, "{name}{{component=\"apiserver\",code=\"{code}\"}} {count}");
        }
        let (name, count) = ("skiff_request_panics_total", self.panics.load(Relaxed));
        let _ = writeln!(out, "# HELP {name} Requests that ended in a panic.\n# TYPE {name} counter\n{name} {count}");
        api.in_flight.write_metrics(&mut out);
        if let Some(audit) = &api.audit {
            audit.write_metrics(&mut out);
        }
        if let Some(flow) = &api.flow {
            flow.write_metrics(&mut out);
        }
        api.chain.admission.iter().for_each(|plugin| plugin.metrics(&mut out));
        write_objects(api, &mut out);
        process::write(&mut out);
        out
    }
}

fn write_objects(api: &Api, out: &mut String) {
    let registry = api.catalog.registry();
    let mut objects = String::from(
        "# HELP apiserver_resource_objects Objects per resource.\n# TYPE apiserver_resource_objects gauge\n",
    );
    let mut watchers = String::from(
        "# HELP apiserver_longrunning_requests Open watches per resource.\n# TYPE apiserver_longrunning_requests gauge\n",
    );
    for resource in registry.resources() {
        let Some(cache) = &resource.cache else { continue };
        let (group, name) = (&resource.id.group, &resource.id.resource);
        let _ =
            writeln!(objects, "apiserver_resource_objects{{group=\"{group}\",resource=\"{name}\"}} {}", cache.len());
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

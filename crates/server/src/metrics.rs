//! What the server counts, in Prometheus' text form at `/metrics`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::Api;
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
    labels: Option<Labels>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

impl Told {
    /// Notes the target.
    pub(crate) fn target(&mut self, target: &Target) {
        let resource = &target.resource;
        self.labels = Some(Labels {
            verb: target.verb,
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.resource.clone(),
            subresource: target.subresource.clone(),
        });
    }
}

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

/// All counters.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<HashMap<(Labels, u16), u64>>,
    durations: Mutex<HashMap<Labels, Histogram>>,
}

impl Metrics {
    /// Counts a request. Paths that are no resource are not told apart, nor are resources that do not exist, so that
    /// nobody can grow the tables at will.
    pub(crate) fn request(&self, told: &Told, code: u16, took: Duration) {
        let Some(labels) = told.labels.clone().filter(|_| !matches!(code, 401 | 403 | 404)) else { return };
        *self.requests.lock().entry((labels.clone(), code)).or_default() += 1;
        if labels.verb == "watch" {
            return;
        }
        let mut durations = self.durations.lock();
        let histogram = durations.entry(labels).or_default();
        let seconds = took.as_secs_f64();
        histogram.sum += seconds;
        histogram.count += 1;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// The text form.
    pub(crate) fn text(&self, api: &Api) -> String {
        let mut out = String::new();
        self.write_requests(&mut out);
        self.write_durations(&mut out);
        write_objects(api, &mut out);
        out
    }

    fn write_requests(&self, out: &mut String) {
        out.push_str("# HELP apiserver_request_total Requests by verb, resource and code.\n");
        out.push_str("# TYPE apiserver_request_total counter\n");
        let requests = self.requests.lock();
        let mut lines: Vec<String> = requests
            .iter()
            .map(|((labels, code), count)| {
                format!("apiserver_request_total{{{},code=\"{code}\"}} {count}\n", labels.text())
            })
            .collect();
        lines.sort_unstable();
        out.extend(lines);
    }

    fn write_durations(&self, out: &mut String) {
        const NAME: &str = "apiserver_request_duration_seconds";
        let _ = writeln!(out, "# HELP {NAME} Time to answer, by verb and resource.\n# TYPE {NAME} histogram");
        let durations = self.durations.lock();
        let mut blocks: Vec<String> = durations
            .iter()
            .map(|(labels, histogram)| {
                let labels = labels.text();
                let mut block = String::new();
                for (bound, count) in BUCKETS.iter().zip(histogram.buckets) {
                    let _ = writeln!(block, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {count}");
                }
                let (sum, count) = (histogram.sum, histogram.count);
                let _ = writeln!(block, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {count}");
                let _ = writeln!(block, "{NAME}_sum{{{labels}}} {sum}\n{NAME}_count{{{labels}}} {count}");
                block
            })
            .collect();
        blocks.sort_unstable();
        out.extend(blocks);
    }
}

impl Labels {
    fn text(&self) -> String {
        let Self { verb, group, version, resource, subresource } = self;
        let verb = verb.to_ascii_uppercase();
        format!(
            "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{subresource}\""
        )
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

//! Figures of the name server, under the names that CoreDNS gave them, so that dashboards know them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

use super::respond::Transport;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    udp: AtomicU64,
    tcp: AtomicU64,
    codes: [AtomicU64; CODES.len()],
    others: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Codes that are told apart.
const CODES: [(ResponseCode, &str); 5] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::Refused, "REFUSED"),
];

impl Metrics {
    /// A question came in.
    pub(super) fn asked(&self, transport: Transport) {
        let counter = match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer went out.
    pub(super) fn answered(&self, code: ResponseCode) {
        let place = CODES.iter().position(|(known, _)| *known == code);
        place.map_or(&self.others, |place| &self.codes[place]).fetch_add(1, Ordering::Relaxed);
    }

    /// A name outside the cluster was known, or others had to be asked.
    pub(super) fn outside(&self, known: bool) {
        let counter = if known { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The page for Prometheus.
    pub(super) fn page(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut page = String::new();
        let mut family = |name: &str, help: &str, lines: &[(String, u64)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, value) in lines {
                let _ = writeln!(page, "{name}{labels} {value}");
            }
        };
        let proto = |name: &str| format!("{{proto=\"{name}\"}}");
        family(
            "coredns_dns_requests_total",
            "Questions.",
            &[(proto("udp"), read(&self.udp)), (proto("tcp"), read(&self.tcp))],
        );
        let code = |name: &str| format!("{{rcode=\"{name}\"}}");
        let mut codes: Vec<_> =
            CODES.iter().zip(&self.codes).map(|((_, name), value)| (code(name), read(value))).collect();
        codes.push((code("OTHER"), read(&self.others)));
        family("coredns_dns_responses_total", "Answers, by code.", &codes);
        let plain = |value: &AtomicU64| [(String::new(), read(value))];
        family("coredns_cache_hits_total", "Names outside the cluster that were known.", &plain(&self.hits));
        family("coredns_cache_misses_total", "Names outside the cluster that others were asked.", &plain(&self.misses));
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told() {
        let metrics = Metrics::default();
        metrics.asked(Transport::Udp);
        metrics.answered(ResponseCode::NXDomain);
        metrics.answered(ResponseCode::NotImp);
        metrics.outside(true);
        let page = metrics.page();
        for line in [
            "coredns_dns_requests_total{proto=\"udp\"} 1",
            "coredns_dns_responses_total{rcode=\"NXDOMAIN\"} 1",
            "coredns_dns_responses_total{rcode=\"OTHER\"} 1",
            "coredns_cache_hits_total 1",
            "coredns_cache_misses_total 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}

//! What the cluster's administrator may say about names: the ConfigMap `kube-system/kube-dns`, as a `Corefile` or in the
//! older form that Kubernetes documents. It is read again whenever it changes; one that makes no sense changes nothing.
//!
//! ```text
//! data:
//!   Corefile: |
//!     .:53 {
//!         hosts {
//!             192.0.2.7 registry.example
//!             fallthrough
//!         }
//!         rewrite name shop.example web.default.svc.cluster.local
//!         forward . 192.0.2.53
//!     }
//!   stubDomains: '{"acme.example": ["10.0.0.53", "10.0.1.53:5353"]}'
//!   upstreamNameservers: '["192.0.2.53"]'
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::ConfigMap;

use super::cache::MAX_SECONDS;
use super::corefile::{self, Line};

/// What CoreDNS does where nobody says so and we do always, or do in another way.
const AS_IT_IS: [&str; 9] =
    ["errors", "health", "kubernetes", "loadbalance", "log", "loop", "prometheus", "ready", "reload"];
/// What tunes questions to other servers without changing which are asked.
const TUNING: [&str; 6] = ["expire", "health_check", "max_concurrent", "max_fails", "policy", "prefer_udp"];
/// Seconds that clients keep what `hosts` says, unless it says otherwise.
const HOSTS_TTL: u32 = 3_600;

/// What holds for names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    /// Those with more labels first.
    zones: Vec<ZoneSettings>,
}

/// What holds for the names of one zone.
#[derive(Clone, Debug, Default, PartialEq)]
struct ZoneSettings {
    zone: Name,
    /// Servers to ask; empty: the machine's.
    servers: Vec<SocketAddr>,
    /// Records that stand here.
    hosts: HashMap<Name, Vec<Record>>,
    /// Names that are looked up under other names.
    rewrites: Vec<Rewrite>,
    /// Most seconds that others' answers are kept.
    cache: Option<u32>,
}

/// A name, or all names below it, that are looked up under another.
#[derive(Clone, Debug, PartialEq)]
struct Rewrite {
    below: bool,
    from: Name,
    to: Name,
}

/// A ConfigMap that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not what it should be: {what}")]
pub(super) struct BadSettings {
    field: &'static str,
    what: String,
}

impl Settings {
    /// What the ConfigMap says.
    pub(super) fn read(map: &ConfigMap) -> Result<Self, BadSettings> {
        let field = |key: &str| map.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
        let bad = |field| move |what: String| BadSettings { field, what };
        let mut zones = corefile_zones(field("Corefile").unwrap_or_default()).map_err(bad("Corefile"))?;
        let stubs = serde_json::from_str(field("stubDomains").unwrap_or("{}"));
        let stubs: BTreeMap<String, Vec<String>> = stubs.map_err(|e| bad("stubDomains")(e.to_string()))?;
        for (domain, addresses) in &stubs {
            let zone = name(domain).map_err(bad("stubDomains"))?;
            let servers = addresses.iter().map(|text| server(text)).collect::<Result<_, _>>();
            zones.push(ZoneSettings { zone, servers: servers.map_err(bad("stubDomains"))?, ..ZoneSettings::default() });
        }
        let upstream = serde_json::from_str(field("upstreamNameservers").unwrap_or("[]"));
        let upstream: Vec<String> = upstream.map_err(|e| bad("upstreamNameservers")(e.to_string()))?;
        let servers = upstream.iter().map(|text| server(text)).collect::<Result<_, _>>();
        let servers = servers.map_err(bad("upstreamNameservers"))?;
        zones.push(ZoneSettings { zone: Name::root(), servers, ..ZoneSettings::default() });
        zones.sort_by_key(|settings| std::cmp::Reverse(settings.zone.num_labels()));
        Ok(Self { zones })
    }

    fn zone_of(&self, name: &Name) -> Option<&ZoneSettings> {
        self.zones.iter().find(|settings| settings.zone.zone_of(name))
    }

    /// The servers to ask for `name`; `None`: the machine's.
    pub(super) fn servers_for(&self, name: &Name) -> Option<&[SocketAddr]> {
        self.zone_of(name).map(|settings| &*settings.servers).filter(|servers| !servers.is_empty())
    }

    /// Most seconds that another server's answer about `name` is kept.
    pub(super) fn cache_for(&self, name: &Name) -> u32 {
        self.zone_of(name).and_then(|settings| settings.cache).unwrap_or(MAX_SECONDS)
    }

    /// What stands here about `name`, of one type: maybe nothing; `None` where the name does not stand here.
    pub(super) fn hosts(&self, name: &Name, record_type: RecordType) -> Option<Vec<Record>> {
        let records =
            self.zone_of(name).filter(|settings| !settings.hosts.is_empty())?.hosts.get(&name.to_lowercase())?;
        let fits = |record: &&Record| record_type == RecordType::ANY || record.record_type() == record_type;
        Some(records.iter().filter(fits).cloned().collect())
    }

    /// The name under which `name` is looked up, where that is another.
    pub(super) fn rewritten(&self, name: &Name) -> Option<Name> {
        self.zone_of(name)?.rewrites.iter().find_map(|rewrite| {
            if !rewrite.below {
                return (rewrite.from == *name).then(|| rewrite.to.clone());
            }
            let above = usize::from(name.num_labels().checked_sub(rewrite.from.num_labels()).filter(|&n| n > 0)?);
            let inside = rewrite.from.zone_of(name);
            inside.then(|| Name::from_labels(name.iter().take(above).chain(rewrite.to.iter())).ok()).flatten()
        })
    }
}

/// Zones as a Corefile has them.
fn corefile_zones(text: &str) -> Result<Vec<ZoneSettings>, String> {
    let mut zones = Vec::new();
    for block in corefile::parse(text)? {
        for zone in &block.zones {
            let plain = zone.strip_prefix("dns://").unwrap_or(zone);
            let mut settings =
                ZoneSettings { zone: name(plain.strip_suffix(":53").unwrap_or(plain))?, ..Default::default() };
            block.lines.iter().try_for_each(|line| settings.take(line))?;
            zones.push(settings);
        }
    }
    Ok(zones)
}

impl ZoneSettings {
    fn take(&mut self, line: &Line<'_>) -> Result<(), String> {
        match line.words.as_slice() {
            [word, ..] if AS_IT_IS.contains(word) => Ok(()),
            ["forward", from, to @ ..] if !to.is_empty() => self.forward(from, to, &line.below),
            ["cache", seconds, ..] => {
                self.cache = Some(seconds.parse().map_err(|_| format!("cache: {seconds:?} is no number of seconds"))?);
                Ok(())
            }
            ["cache"] => Ok(()),
            ["hosts"] => self.hosts(&line.below),
            ["rewrite", rest @ ..] => self.rewrite(rest.strip_prefix(&["stop"]).unwrap_or(rest)),
            words => Err(format!("{:?} is not known here", words.join(" "))),
        }
    }

    fn forward(&mut self, from: &str, to: &[&str], options: &[Vec<&str>]) -> Result<(), String> {
        if from != "." && name(from)? != self.zone {
            return Err(format!("forward {from}: give it a block of its own"));
        }
        if let Some(option) = options.iter().find(|words| !words.first().is_some_and(|word| TUNING.contains(word))) {
            return Err(format!("forward: {:?} is not known here", option.join(" ")));
        }
        if to != ["/etc/resolv.conf"] {
            self.servers =
                to.iter().map(|to| server(to.strip_prefix("dns://").unwrap_or(to))).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    fn hosts(&mut self, lines: &[Vec<&str>]) -> Result<(), String> {
        let falls = lines.iter().any(|words| words.as_slice() == ["fallthrough"]);
        if !falls {
            return Err("hosts: without a line `fallthrough` no other name would exist".to_owned());
        }
        let (mut ttl, mut reverse) = (HOSTS_TTL, true);
        let mut entries = Vec::new();
        for words in lines {
            match words.as_slice() {
                ["fallthrough"] => {}
                ["no_reverse"] => reverse = false,
                ["ttl", seconds] => ttl = seconds.parse().map_err(|_| format!("hosts: ttl {seconds:?}"))?,
                [address, names @ ..] if !names.is_empty() => {
                    let address: IpAddr = address.parse().map_err(|_| format!("hosts: {address:?} is no address"))?;
                    for text in names {
                        entries.push((address, name(text)?));
                    }
                }
                words => return Err(format!("hosts: {:?} is not known here", words.join(" "))),
            }
        }
        for (address, name) in entries {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            };
            if reverse {
                let (back, pointer) = (Name::from(address), RData::PTR(PTR(name.clone())));
                self.hosts.entry(back.clone()).or_default().push(Record::from_rdata(back, ttl, pointer));
            }
            self.hosts.entry(name.clone()).or_default().push(Record::from_rdata(name, ttl, data));
        }
        Ok(())
    }

    fn rewrite(&mut self, words: &[&str]) -> Result<(), String> {
        let words = words.strip_suffix(&["answer", "auto"]).unwrap_or(words);
        let (below, from, to) = match words {
            ["name", "exact", from, to] => (false, from, to),
            ["name", "suffix", from, to] => (true, from, to),
            ["name", from, to] => (false, from, to),
            words => {
                return Err(format!("rewrite: {:?} is not known here; name exact or name suffix", words.join(" ")));
            }
        };
        // A suffix may begin with its dot.
        let plain = |text: &str| name(if below { text.trim_start_matches('.') } else { text });
        self.rewrites.push(Rewrite { below, from: plain(from)?, to: plain(to)? });
        Ok(())
    }
}

/// A name in lower case, from the root.
fn name(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no name: {error}"))?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

/// An address with or without a port.
fn server(text: &str) -> Result<SocketAddr, String> {
    let plain = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    plain.or_else(|_| text.parse::<SocketAddr>()).map_err(|_| format!("{text:?} is no address"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(data: serde_json::Value) -> Result<Settings, BadSettings> {
        Settings::read(&serde_json::from_value(json!({ "data": data })).unwrap())
    }

    #[test]
    fn the_closest_domain_decides() {
        let found = settings(json!({
            "stubDomains": r#"{"example": ["10.0.0.1"], "deep.Example": ["10.0.0.2:5353", "fd00::1"]}"#,
            "upstreamNameservers": r#"["10.0.0.3"]"#,
        }))
        .unwrap();
        let asked =
            |name: &str| found.servers_for(&Name::from_ascii(name).unwrap()).map(|servers| servers[0].to_string());
        assert_eq!(asked("a.example."), Some("10.0.0.1:53".to_owned()));
        assert_eq!(asked("x.deep.example."), Some("10.0.0.2:5353".to_owned()));
        assert_eq!(asked("notexample."), Some("10.0.0.3:53".to_owned()));
        let none = settings(json!({})).unwrap();
        assert_eq!(none.servers_for(&Name::from_ascii("a.").unwrap()), None);
    }

    #[test]
    fn a_corefile_says_the_same_and_more() {
        // As clusters have it, with what people add.
        let found = settings(json!({"Corefile": "
            .:53 {
                errors
                health {
                   lameduck 5s
                }
                kubernetes cluster.local in-addr.arpa ip6.arpa {
                   pods insecure
                   fallthrough in-addr.arpa ip6.arpa
                }
                hosts {
                    192.0.2.7 Registry.example mirror.example
                    2001:db8::7 registry.example
                    ttl 60
                    fallthrough
                }
                rewrite name shop.example web.default.svc.cluster.local
                rewrite stop name suffix .old.example .new.example answer auto
                prometheus :9153
                forward . /etc/resolv.conf {
                   max_concurrent 1000
                }
                cache 10
                loop
                reload
                loadbalance
            }
            acme.example, b.example:53 {
                forward . 10.0.0.53 dns://10.0.1.53:5353
                cache
            }"}))
        .unwrap();
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let servers = ["10.0.0.53:53".parse().unwrap(), "10.0.1.53:5353".parse().unwrap()];
        assert_eq!(found.servers_for(&name("x.acme.example.")), Some(&servers[..]));
        assert_eq!(found.servers_for(&name("B.example.")), Some(&servers[..]));
        assert_eq!(found.servers_for(&name("example.")), None, "the machine's");
        assert_eq!((found.cache_for(&name("example.")), found.cache_for(&name("acme.example."))), (10, MAX_SECONDS));
        let hosts = |text: &str, record_type| {
            let records = found.hosts(&name(text), record_type)?;
            Some(records.iter().map(|record| format!("{} {}", record.ttl, record.data)).collect::<Vec<_>>())
        };
        assert_eq!(hosts("registry.EXAMPLE.", RecordType::A), Some(vec!["60 192.0.2.7".to_owned()]));
        assert_eq!(hosts("registry.example.", RecordType::AAAA), Some(vec!["60 2001:db8::7".to_owned()]));
        assert_eq!(hosts("mirror.example.", RecordType::AAAA), Some(vec![]), "known, without such a record");
        assert_eq!(hosts("other.example.", RecordType::A), None);
        let names = Some(vec!["60 registry.example.".to_owned(), "60 mirror.example.".to_owned()]);
        assert_eq!(hosts("7.2.0.192.in-addr.arpa.", RecordType::PTR), names);
        for (from, to) in [
            ("Shop.example.", Some("web.default.svc.cluster.local.")),
            ("a.shop.example.", None),
            ("a.b.old.example.", Some("a.b.new.example.")),
            ("old.example.", None),
            ("cold.example.", None),
        ] {
            assert_eq!(found.rewritten(&name(from)), to.map(name), "{from}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for data in [
            json!({"stubDomains": "x"}),
            json!({"upstreamNameservers": r#"["x"]"#}),
            json!({"stubDomains": r#"{"a": ["b"]}"#}),
            json!({"Corefile": ". {"}),
            json!({"Corefile": ". {\n forward . tls://9.9.9.9\n}"}),
            json!({"Corefile": ". {\n forward . 9.9.9.9 {\n except a\n }\n}"}),
            json!({"Corefile": ". {\n hosts {\n 10.0.0.1 a\n }\n}"}),
            json!({"Corefile": ". {\n hosts /etc/hosts\n}"}),
            json!({"Corefile": ". {\n rewrite name regex a b\n}"}),
            json!({"Corefile": ". {\n template IN A\n}"}),
        ] {
            assert!(settings(data.clone()).is_err(), "{data}");
        }
    }
}

//! Answers of other name servers, kept for as long as they allow, but not for long.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Longest time an answer is kept, unless the administrator says otherwise.
pub(super) const MAX_SECONDS: u32 = 30;
/// Most answers kept at a time.
const CAPACITY: usize = 4_096;

/// One question: name in lower case, type and class.
pub(super) type Question = (Name, RecordType, DNSClass);

/// What another name server said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// Replies by question, with the time they came in.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Question, (Reply, Duration, u32)>,
}

impl Cache {
    /// A kept reply with its times to live as of `now`.
    pub(super) fn get(&self, question: &Question, now: Duration) -> Option<Reply> {
        let (reply, since, seconds) = self.entries.get(question)?;
        let age = u32::try_from(now.saturating_sub(*since).as_secs()).ok().filter(|age| age < seconds)?;
        let mut reply = reply.clone();
        let all = reply.records.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals);
        all.for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        Some(reply)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Keeps a reply, if it may be kept, for so many seconds at most.
    pub(super) fn put(&mut self, question: Question, reply: &Reply, most: u32, now: Duration) {
        let Some(seconds) = lifetime(reply).map(|seconds| seconds.min(most)).filter(|&seconds| seconds > 0) else {
            return;
        };
        if self.entries.len() >= CAPACITY {
            self.entries.retain(|_, (_, since, seconds)| now.saturating_sub(*since).as_secs() < u64::from(*seconds));
        }
        // All of them young: whoever asks that many different questions gains nothing from the cache.
        if self.entries.len() >= CAPACITY {
            self.entries.clear();
        }
        self.entries.insert(question, (reply.clone(), now, seconds));
    }
}

/// Seconds a reply may be kept: the least of its records, or what the SOA record says about there being none.
fn lifetime(reply: &Reply) -> Option<u32> {
    let seconds = match reply.code {
        ResponseCode::NoError if !reply.records.is_empty() => reply.records.iter().map(|record| record.ttl).min()?,
        ResponseCode::NoError | ResponseCode::NXDomain => {
            reply.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                _ => None,
            })?
        }
        _ => return None,
    };
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn question(name: &str) -> Question {
        (Name::from_ascii(name).unwrap(), RecordType::A, DNSClass::IN)
    }

    fn reply(code: ResponseCode, ttl: Option<u32>, minimum: Option<u32>) -> Reply {
        let root = Name::root;
        let records = ttl.map(|ttl| Record::from_rdata(root(), ttl, RData::A(A::new(1, 2, 3, 4))));
        let soa = |minimum| RData::SOA(SOA::new(root(), root(), 1, 1, 1, 1, minimum));
        let authorities = minimum.map(|minimum| Record::from_rdata(root(), 600, soa(minimum)));
        let (records, authorities) = (records.into_iter().collect(), authorities.into_iter().collect());
        Reply { code, records, authorities, additionals: Vec::new() }
    }

    #[test]
    fn replies_age_and_end() {
        let at = Duration::from_secs;
        let cases = [
            (reply(ResponseCode::NoError, Some(10), None), 10),
            (reply(ResponseCode::NoError, Some(600), None), 30),
            (reply(ResponseCode::NXDomain, None, Some(7)), 7),
            (reply(ResponseCode::NoError, None, Some(7)), 7),
            (reply(ResponseCode::NXDomain, None, None), 0),
            (reply(ResponseCode::ServFail, None, Some(7)), 0),
            (reply(ResponseCode::NoError, Some(0), None), 0),
        ];
        for (reply, seconds) in cases {
            let mut cache = Cache::default();
            cache.put(question("a."), &reply, MAX_SECONDS, at(100));
            let last = cache.get(&question("a."), at(99 + seconds));
            assert_eq!(last.is_some(), seconds > 0, "{reply:?}");
            assert_eq!(cache.get(&question("a."), at(100 + seconds)), None);
            let left = last.and_then(|last| last.records.first().map(|record| record.ttl));
            assert_eq!(left, reply.records.first().filter(|_| seconds > 0).map(|r| r.ttl + 1 - seconds as u32));
        }
    }

    #[test]
    fn the_cache_stays_bounded() {
        let mut cache = Cache::default();
        for i in 0..CAPACITY + 10 {
            cache.put(
                question(&format!("n{i}.")),
                &reply(ResponseCode::NoError, Some(10), None),
                MAX_SECONDS,
                Duration::ZERO,
            );
        }
        assert!(cache.entries.len() <= CAPACITY);
        assert!(cache.get(&question(&format!("n{}.", CAPACITY + 9)), Duration::ZERO).is_some());
    }
}

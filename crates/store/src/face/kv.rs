//! The KV service.

use tonic::{Request, Response, Status};

use super::status::{self, refuse};
use super::{Face, header, keys, pair, txn};
use crate::contract::{KeyValue, RangeQuery, Revision};
use crate::proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};

#[tonic::async_trait]
impl pb::kv_server::Kv for Face {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        check_range(&request)?;
        let at = revision(&request);
        let limit = if request.count_only { 1 } else { read_limit(&request) };
        let query = RangeQuery { keys: keys(&request.key, &request.range_end), limit, at };
        let found = self.store.range(query).await.map_err(status::store)?;
        let count = found.items.len() + found.remaining;
        let now = if at.is_some() { self.header().await? } else { header(found.revision) };
        Ok(Response::new(pb::RangeResponse { header: now, ..answer(&request, found.items, count) }))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let op = pb::request_op::Request::RequestPut(request.into_inner());
        let (revision, answer) = self.single(op).await?;
        let Some(pb::response_op::Response::ResponsePut(put)) = answer else { return Err(mixed_up()) };
        Ok(Response::new(pb::PutResponse { header: header(revision), ..put }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let op = pb::request_op::Request::RequestDeleteRange(request.into_inner());
        let (revision, answer) = self.single(op).await?;
        let Some(pb::response_op::Response::ResponseDeleteRange(gone)) = answer else { return Err(mixed_up()) };
        Ok(Response::new(pb::DeleteRangeResponse { header: header(revision), ..gone }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Ok(Response::new(self.transact(request.into_inner()).await?))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let revision = Revision::try_from(request.into_inner().revision).unwrap_or(0);
        // Ours may be compacted already, by age; etcd says so to those who ask for less.
        if revision <= self.store.compacted().await.map_err(status::store)? {
            return Err(refuse(status::COMPACTED));
        }
        self.store.compact(revision).await.map_err(status::store)?;
        Ok(Response::new(pb::CompactionResponse { header: self.header().await? }))
    }
}

impl Face {
    async fn transact(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        txn::check(&request)?;
        let decide = |core: &_, clock| txn::decide(core, clock, &request);
        self.shared.mutate(decide).await.map_err(status::store)?
    }

    /// A transaction of one operation.
    async fn single(
        &self,
        op: pb::request_op::Request,
    ) -> Result<(Revision, Option<pb::response_op::Response>), Status> {
        let success = vec![pb::RequestOp { request: Some(op) }];
        let answer = self.transact(pb::TxnRequest { success, ..Default::default() }).await?;
        let revision = answer.header.map_or(0, |header| header.revision as Revision);
        Ok((revision, answer.responses.into_iter().next().and_then(|op| op.response)))
    }
}

fn mixed_up() -> Status {
    Status::internal("the answer does not fit the request")
}

/// The revision a read is about; `None`: now.
pub(super) fn revision(request: &pb::RangeRequest) -> Option<Revision> {
    Revision::try_from(request.revision).ok().filter(|revision| *revision > 0)
}

/// What no state could make right.
pub(super) fn check_range(request: &pb::RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(refuse(status::EMPTY_KEY));
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(refuse(status::BAD_SORT));
    }
    Ok(())
}

fn is_in_key_order(request: &pb::RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => request.sort_target() == SortTarget::Key,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    }
}

/// How many pairs to read: all, where order or bounds decide which ones are told.
pub(super) fn read_limit(request: &pb::RangeRequest) -> usize {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    let is_plain = is_in_key_order(request) && bounds == [0; 4];
    if is_plain { usize::try_from(request.limit).unwrap_or(0) } else { 0 }
}

/// The answer of `found` pairs, of `count` that there are.
pub(super) fn answer(request: &pb::RangeRequest, mut found: Vec<KeyValue>, count: usize) -> pb::RangeResponse {
    let mut answer = pb::RangeResponse { count: count as i64, ..Default::default() };
    if request.count_only {
        return answer;
    }
    let within = |at: Revision, min: i64, max: i64| (min == 0 || at as i64 >= min) && (max == 0 || at as i64 <= max);
    let all = found.len();
    found.retain(|kv| {
        within(kv.modified, request.min_mod_revision, request.max_mod_revision)
            && within(kv.created, request.min_create_revision, request.max_create_revision)
    });
    let was_filtered = found.len() < all;
    if !is_in_key_order(request) {
        match request.sort_target() {
            SortTarget::Key => found.sort_by(|a, b| a.key.cmp(&b.key)),
            SortTarget::Version => found.sort_by_key(|kv| kv.version),
            SortTarget::Create => found.sort_by_key(|kv| kv.created),
            SortTarget::Mod => found.sort_by_key(|kv| kv.modified),
            SortTarget::Value => found.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if request.sort_order() == SortOrder::Descend {
            found.reverse();
        }
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    answer.more = found.len() > limit || !was_filtered && read_limit(request) > 0 && all < count;
    found.truncate(limit);
    answer.kvs = found.into_iter().map(pair).collect();
    if request.keys_only {
        answer.kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, value: &'static str, created: Revision, modified: Revision) -> KeyValue {
        KeyValue { key: key.into(), value: value.into(), created, modified, version: 1, lease: 0, trace: None }
    }

    #[test]
    fn order_bounds_and_limits() {
        let all = || vec![kv("a", "3", 2, 9), kv("b", "1", 3, 3), kv("c", "2", 4, 5)];
        let table: [(pb::RangeRequest, &str, bool); 8] = [
            (pb::RangeRequest::default(), "abc", false),
            (pb::RangeRequest { sort_order: 2, ..Default::default() }, "cba", false),
            (pb::RangeRequest { sort_order: 2, limit: 2, ..Default::default() }, "cb", true),
            (pb::RangeRequest { sort_target: 4, ..Default::default() }, "bca", false),
            (pb::RangeRequest { sort_target: 3, sort_order: 2, limit: 1, ..Default::default() }, "a", true),
            (pb::RangeRequest { min_mod_revision: 5, ..Default::default() }, "ac", false),
            (pb::RangeRequest { max_create_revision: 3, limit: 2, ..Default::default() }, "ab", false),
            (pb::RangeRequest { count_only: true, ..Default::default() }, "", false),
        ];
        for (request, keys, more) in table {
            let told = answer(&request, all(), 3);
            let found: String = told.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
            assert_eq!((found.as_str(), told.more, told.count), (keys, more, 3), "{request:?}");
        }
        let page = pb::RangeRequest { limit: 3, keys_only: true, ..Default::default() };
        let told = answer(&page, all(), 7);
        assert!(told.more && told.kvs.iter().all(|kv| kv.value.is_empty()));
    }
}

//! Endless answers: their end is written down when it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use skiff_client::{Body, BodyError};
use skiff_meta::WorldRef;

use super::{Record, Stage};

struct Watched {
    body: Body,
    record: Arc<Record>,
    world: WorldRef,
}

/// Writes `ResponseComplete` when the body has ended or its client has gone.
pub(crate) fn watch(body: Body, record: Arc<Record>, world: WorldRef) -> Body {
    Watched { body, record, world }.boxed_unsync()
}

impl Drop for Watched {
    fn drop(&mut self) {
        let record = self.record.clone();
        let write = async move {
            record.write(Stage::ResponseComplete).await;
        };
        self.world.spawn("audit-end", Box::pin(write));
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Answers that are made while they are sent hold their seat until they are, but not for ever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use skiff_client::{Body, BodyError};
use skiff_meta::World;

use super::Permit;

/// A body with its seat. Past its time the body breaks off, which tells the client that something is missing.
struct Held {
    body: Body,
    permit: Option<Permit>,
    end: BoxFuture<'static, ()>,
}

/// Keeps `permit` as long as `body` is made; whole bodies are made already.
pub(crate) fn hold(body: Body, permit: Permit, world: &dyn World, limit: Duration) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    Held { body, permit: Some(permit), end: world.sleep(limit) }.boxed_unsync()
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(None | Some(Err(_))) => self.permit = None,
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Pending if self.end.poll_unpin(context).is_ready() => {
                self.permit = None;
                let late = "the answer was not sent within the allotted timeout";
                return Poll::Ready(Some(Err(late.into())));
            }
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

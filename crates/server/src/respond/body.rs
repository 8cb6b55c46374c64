//! Bodies: whole where they are small, streamed where they are large, gzipped where that is welcome and worth it.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use skiff_client::{Body, BodyError};

/// Bodies below this are not worth compressing (upstream's threshold).
const GZIP_FROM: usize = 128 << 10;

/// Marks a response whose body is made and sent in several chunks.
#[derive(Clone, Copy)]
pub(crate) struct IsLarge;

/// A body known as a whole.
pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body made of chunks as they are asked for.
pub(crate) fn chunks(chunks: impl Iterator<Item = Bytes> + Send + Unpin + 'static) -> Body {
    StreamBody::new(Paced { chunks, rested: true }).boxed_unsync()
}

/// Gives way after each chunk. A connection takes as much of a body as it may hold, and seals and sends it at one go; where
/// many read large lists, whoever asks for little would wait until each of them has had all of its.
struct Paced<I> {
    chunks: I,
    rested: bool,
}

impl<I: Iterator<Item = Bytes> + Unpin> Stream for Paced<I> {
    type Item = Result<Frame<Bytes>, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !std::mem::replace(&mut self.rested, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rested = false;
        Poll::Ready(self.chunks.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Fills a response's body; chunks are made while they are sent, but for as many as tell whether it is worth compressing.
pub(crate) fn fill(
    response: &mut Response<Body>,
    mut parts: impl Iterator<Item = Bytes> + Send + Unpin + 'static,
    gzip: bool,
) {
    let mut head: Vec<Bytes> = parts.by_ref().take(2).collect();
    let mut length: usize = head.iter().map(Bytes::len).sum();
    while gzip
        && length < GZIP_FROM
        && let Some(part) = parts.next()
    {
        length += part.len();
        head.push(part);
    }
    let zip = gzip && length >= GZIP_FROM;
    if zip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if head.len() > 1 {
        response.extensions_mut().insert(IsLarge);
    }
    *response.body_mut() = match (head.len(), zip) {
        (0 | 1, false) => full(head.pop().unwrap_or_default()),
        (_, false) => chunks(head.into_iter().chain(parts)),
        (_, true) => chunks(Gzip::new(head.into_iter().chain(parts))),
    };
}

/// Compresses chunk by chunk.
struct Gzip<I> {
    parts: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Gzip<I> {
    fn new(parts: I) -> Self {
        // Upstream's level: speed before size.
        Self { parts, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzip<I> {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(part) = self.parts.next() else {
                // Writing to memory cannot fail.
                return self.encoder.take()?.finish().ok().map(Bytes::from);
            };
            encoder.write_all(&part).ok()?;
            if !encoder.get_ref().is_empty() {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    /// However small the chunks are of which a body is made.
    #[tokio::test]
    async fn large_bodies_alone_are_compressed() {
        for (size, count, gzip, zipped) in [
            (GZIP_FROM - 1, 1, true, false),
            (GZIP_FROM, 1, true, true),
            (GZIP_FROM / 4, 3, true, false),
            (GZIP_FROM / 4, 4, true, true),
            (GZIP_FROM / 4, 9, true, true),
            (GZIP_FROM / 4, 9, false, false),
        ] {
            let part = Bytes::from(vec![b'x'; size]);
            let mut response = Response::new(Body::default());
            fill(&mut response, std::iter::repeat_n(part, count), gzip);
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), zipped, "{count} of {size}");
            let length = response.into_body().collect().await.unwrap().to_bytes().len();
            assert_eq!(length == size * count, !zipped, "{count} of {size}: {length}");
        }
    }

    #[test]
    fn gzip_round_trips() {
        let parts: Vec<Bytes> = (0..100).map(|i| Bytes::from(format!("{i} ").repeat(1_000))).collect();
        let zipped: Vec<u8> = Gzip::new(parts.clone().into_iter()).flat_map(|b| b.to_vec()).collect();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, parts.concat());
        assert!(zipped.len() < plain.len() / 10);
    }
}

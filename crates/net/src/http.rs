//! Just enough HTTP to answer a machine that asks for one page: health checks and metrics.

use std::time::Duration;

use futures::FutureExt;
use skiff_meta::WorldRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a caller may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// No question is longer.
const LONGEST: usize = 8 << 10;

/// A whole answer.
pub(crate) fn answer(status: &str, content_type: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{headers}Content-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// Answers every connection with what `page` makes of the path, for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    world: WorldRef,
    page: impl Fn(&str) -> String + Clone + Send + Sync + 'static,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (page, patience) = (page.clone(), world.sleep(PATIENCE));
                let work = async move {
                    tokio::select! {
                        _ = converse(stream, page) => {}
                        () = patience => {}
                    }
                };
                drop(world.spawn("page", work.boxed()));
            }
            // Out of descriptors, most likely: give others time to return some.
            Err(_) => world.sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, page: impl Fn(&str) -> String) -> std::io::Result<()> {
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    while heard.len() < LONGEST && !heard.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => heard.extend_from_slice(&buffer[..count]),
        }
    }
    let text = String::from_utf8_lossy(&heard);
    let path = text.split(' ').nth(1).unwrap_or_default();
    stream.write_all(page(path).as_bytes()).await?;
    stream.shutdown().await
}

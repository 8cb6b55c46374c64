//! The runtime's streaming server: dialling it, and passing a client's upgrade on to it as it is.

use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skiff_meta::WorldRef;
use tokio::net::TcpStream;

use super::{Answer, Refusal, refuse};

fn failed(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    refuse(StatusCode::BAD_GATEWAY, format!("the runtime's stream {what}: {error}"))
}

/// Sends an upgrade request to `url`; the answer, upgraded or not.
pub(super) async fn dial(
    url: &str,
    headers: &http::HeaderMap,
    world: &WorldRef,
) -> Result<Response<Incoming>, Refusal> {
    let uri: Uri = url.parse().map_err(|e| failed("has no address", &e))?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let tcp = TcpStream::connect(&authority).await.map_err(|e| failed("cannot be reached", &e))?;
    let _ = tcp.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(|e| failed("does not answer", &e))?;
    world.spawn(
        "runtime stream",
        Box::pin(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("a runtime stream ended: {error}");
            }
        }),
    );
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder().method("POST").uri(path).header("host", authority);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| failed("takes no such request", &e))?;
    sender.send_request(request).await.map_err(|e| failed("does not answer", &e))
}

/// What an upgraded answer leads to.
pub(super) async fn upgraded(answer: Response<Incoming>) -> Result<TokioIo<Upgraded>, Refusal> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status();
        let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(refuse(code, String::from_utf8_lossy(&body)));
    }
    hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|e| failed("broke off", &e))
}

/// Headers that an upgrade consists of.
fn of_upgrade(name: &str) -> bool {
    matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-")
}

/// Passes the client's upgrade on and copies bytes both ways.
pub(super) async fn pass_through(mut request: Request<Incoming>, url: &str, world: &WorldRef) -> Answer {
    let headers =
        request.headers().iter().filter(|(n, _)| of_upgrade(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect();
    let answer = dial(url, &headers, world).await?;
    let (code, answered) = (answer.status(), answer.headers().clone());
    let runtime = upgraded(answer).await?;
    let client = hyper::upgrade::on(&mut request);
    world.spawn(
        "stream",
        Box::pin(async move {
            let Ok(client) = client.await else { return };
            let (mut client, mut runtime) = (TokioIo::new(client), runtime);
            // Either side may leave first; there is nobody to tell.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut runtime).await;
        }),
    );
    let mut response = super::text(code, "");
    for (name, value) in answered.iter().filter(|(n, _)| of_upgrade(n.as_str())) {
        response.headers_mut().append(name, value.clone());
    }
    Ok(response)
}

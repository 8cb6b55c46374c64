//! Requests as the CLI makes them: dynamic, since it meets kinds it has never heard of.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use skiff_client::{Backend, Body, ClientError};
use skiff_meta::Status;

use crate::error::CliError;

/// What a patch is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// Accepts tables where the server can make them.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const JSON: &str = "application/json";

/// The cluster, by path.
#[derive(Clone)]
pub struct Wire {
    backend: Arc<dyn Backend>,
    /// Headers of every request: in whose name it is made.
    headers: HeaderMap,
}

impl Wire {
    /// On any backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, headers: HeaderMap::new() }
    }

    /// The same in the name of another user (`--as`).
    ///
    /// # Errors
    /// When a name cannot be sent.
    pub fn impersonating(mut self, user: &str, groups: &[String], uid: &str) -> Result<Self, CliError> {
        let value = |text: &str| {
            HeaderValue::try_from(text).map_err(|e| CliError::usage(format!("{text:?} is no name of a user: {e}")))
        };
        for (name, text) in [("impersonate-user", user), ("impersonate-uid", uid)] {
            if !text.is_empty() {
                self.headers.insert(name, value(text)?);
            }
        }
        for group in groups {
            self.headers.append("impersonate-group", value(group)?);
        }
        Ok(self)
    }

    /// Whether requests are made in the name of another.
    pub fn impersonates(&self) -> bool {
        !self.headers.is_empty()
    }

    /// The backend, for what is not a plain request.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Any request; the body of a success is returned unread.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<(StatusCode, Body), CliError> {
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        if let Some((content_type, _)) = &body {
            request = request.header("content-type", *content_type);
        }
        let bytes = body.map(|(_, bytes)| bytes).unwrap_or_default();
        let mut request = request.body(bytes).map_err(|e| CliError::usage(format!("{path} is no path: {e}")))?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let response = self.backend.send(request).await?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok((head.status, body));
        }
        let bytes = collect(body).await?;
        Err(CliError::Api(Box::new(serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
            Status::failure(head.status.as_u16(), "", String::from_utf8_lossy(&bytes).trim().to_owned())
        }))))
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<(StatusCode, Value), CliError> {
        let (status, body) = self.open(method, path, accept, body).await?;
        let bytes = collect(body).await?;
        let value = serde_json::from_slice(&bytes).map_err(|e| ClientError::BadAnswer(e.to_string()))?;
        Ok((status, value))
    }

    /// GET, as JSON.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.json(Method::GET, path, JSON, None).await?.1)
    }
    /// GET, in another form.
    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Value, CliError> {
        Ok(self.json(Method::GET, path, accept, None).await?.1)
    }
    /// POST of an object.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, CliError> {
        Ok(self.json(Method::POST, path, JSON, Some((JSON, bytes(object)))).await?.1)
    }
    /// PUT of an object.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, CliError> {
        Ok(self.json(Method::PUT, path, JSON, Some((JSON, bytes(object)))).await?.1)
    }
    /// PATCH; whether the object was created by it, and what it is now.
    pub async fn patch(&self, path: &str, ty: PatchType, patch: &Value) -> Result<(bool, Value), CliError> {
        let (status, value) = self.json(Method::PATCH, path, JSON, Some((ty.content_type(), bytes(patch)))).await?;
        Ok((status == StatusCode::CREATED, value))
    }
    /// DELETE with options.
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, CliError> {
        Ok(self.json(Method::DELETE, path, JSON, Some((JSON, bytes(options)))).await?.1)
    }

    /// Watch events, one JSON value each, until the server ends the watch.
    pub async fn watch(&self, path: &str, accept: &str) -> Result<Lines, CliError> {
        Ok(Lines { body: self.open(Method::GET, path, accept, None).await?.1, buffer: Vec::new() })
    }
}

/// Lines of an endless body.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line as JSON; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let value = serde_json::from_slice(&line).map_err(|e| ClientError::BadAnswer(e.to_string()))?;
                return Ok(Some(value));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Transport(error.to_string()).into()),
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
        }
    }
}

/// A body as a stream of chunks.
pub fn chunks(body: Body) -> impl futures::Stream<Item = Result<Bytes, CliError>> + Unpin {
    http_body_util::BodyStream::new(body)
        .map(|frame| match frame {
            Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
            Err(error) => Err(ClientError::Transport(error.to_string()).into()),
        })
        .boxed_local()
}

async fn collect(body: Body) -> Result<Bytes, CliError> {
    Ok(body.collect().await.map_err(|e| ClientError::Transport(e.to_string()))?.to_bytes())
}

fn bytes(value: &Value) -> Bytes {
    value.to_string().into_bytes().into()
}

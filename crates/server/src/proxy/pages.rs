//! Pages that are shown through a proxy: links that lead to the site's own root lead through the proxy again.
//!
//! As upstream's `util/proxy/transport.go`. A page is changed as it passes: only a tag that has not ended yet is held back.

use std::io::Write as _;
use std::ops::Range;

use flate2::write::GzDecoder;
use futures::stream;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use skiff_client::{Body, BodyError};

use super::location::Location;

/// The longest tag or comment that is looked at.
const LONGEST: usize = 16 * 1024;

/// Attributes that hold a link, by tag.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Tags whose content is text until they are closed.
const TEXTS: [&str; 9] = ["iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp"];

/// Whom a browser may ask for what, which is up to whoever it speaks to: us.
const CORS: [header::HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// What makes a link one to the proxied site.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The path up to and including `/proxy`.
    prefix: String,
    /// What the client calls us.
    asked: String,
    /// What the site calls itself.
    own: String,
}

impl Links {
    pub(super) fn new(prefix: &str, uri: &Uri, headers: &HeaderMap, location: &Location) -> Self {
        let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let asked = host.or(uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
        Self { prefix: prefix.to_owned(), asked: asked.to_owned(), own: location.authority() }
    }

    /// The link that leads to the same place through the proxy; `None`: this one does, or leads elsewhere.
    fn moved(&self, link: &str) -> Option<String> {
        let (host, path) = split(link);
        if !path.starts_with('/') {
            return None;
        }
        let kept = match host {
            None => "",
            Some(host) if host == self.asked => &link[..link.len() - path.len()],
            Some(host) if host == self.own => "",
            Some(_) => return None,
        };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        Some(format!("{kept}{prefix}{path}")).filter(|moved| moved != link)
    }

    /// Keeps a proxied site behind the proxy.
    pub(super) fn keep_behind(self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        CORS.iter().for_each(|name| drop(headers.remove(name)));
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(redirect) = text(header::LOCATION) {
            if let Some(moved) = self.moved(redirect).and_then(|moved| HeaderValue::from_str(&moved).ok()) {
                headers.insert(header::LOCATION, moved);
            }
            return response;
        }
        let is_page =
            text(header::CONTENT_TYPE).is_some_and(|ty| ty.split(';').next().map(str::trim) == Some("text/html"));
        let unzip = match text(header::CONTENT_ENCODING) {
            None | Some("") => None,
            Some("gzip") => Some(GzDecoder::new(Vec::new())),
            Some(_) => return response,
        };
        if !is_page {
            return response;
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        response.map(|body| rewritten(body, unzip, Rewriter { links: self, held: Vec::new(), text: None }))
    }
}

/// Host and path of a link.
fn split(link: &str) -> (Option<&str>, &str) {
    let scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let rest = match link.split_once("//") {
        Some(("", rest)) => rest,
        Some((before, rest)) if before.strip_suffix(':').is_some_and(scheme) => rest,
        _ => return (None, link),
    };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (Some(host), path)
}

fn rewritten(body: Body, unzip: Option<GzDecoder<Vec<u8>>>, rewriter: Rewriter) -> Body {
    let frames = stream::try_unfold(Some((body, unzip, rewriter)), |state| async {
        let Some((mut body, mut unzip, mut rewriter)) = state else { return Ok(None) };
        let Some(frame) = body.frame().await.transpose()? else {
            let rest = match unzip {
                Some(unzip) => unzip.finish().map_err(|e| Box::new(e) as BodyError)?,
                None => Vec::new(),
            };
            let mut last = rewriter.push(&rest);
            last.append(&mut rewriter.held);
            return Ok(Some((Frame::data(last.into()), None)));
        };
        let frame = match (frame.into_data(), &mut unzip) {
            (Err(other), _) => other,
            (Ok(data), None) => Frame::data(rewriter.push(&data).into()),
            (Ok(data), Some(unzip)) => {
                unzip.write_all(&data).map_err(|e| Box::new(e) as BodyError)?;
                Frame::data(rewriter.push(&std::mem::take(unzip.get_mut())).into())
            }
        };
        Ok::<_, BodyError>(Some((frame, Some((body, unzip, rewriter)))))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A page on its way.
struct Rewriter {
    links: Links,
    /// What has come of a tag or comment that has not ended.
    held: Vec<u8>,
    /// The tag that has to be closed before there are others.
    text: Option<&'static str>,
}

/// What begins with `<`.
enum Piece {
    /// A start tag of this length, with its name's length and the places of its attributes' names and values.
    Tag(usize, usize, Vec<(Range<usize>, Range<usize>)>),
    /// Something else, passed on up to here.
    Other(usize),
    /// It has not ended yet.
    Open,
}

impl Rewriter {
    /// What can be passed on, now that more has come.
    fn push(&mut self, more: &[u8]) -> Vec<u8> {
        let mut page = std::mem::take(&mut self.held);
        page.extend_from_slice(more);
        let (mut out, mut at) = (Vec::with_capacity(page.len()), 0);
        while let Some(begin) = memchr::memchr(b'<', &page[at..]).map(|found| at + found) {
            out.extend_from_slice(&page[at..begin]);
            let rest = &page[begin..];
            let seen = &rest[..rest.len().min(LONGEST)];
            let piece = match self.text {
                Some(tag) if seen.len() < tag.len() + 2 => Piece::Open,
                Some(tag) => {
                    if seen[1] == b'/' && seen[2..tag.len() + 2].eq_ignore_ascii_case(tag.as_bytes()) {
                        self.text = None;
                    }
                    Piece::Other(1)
                }
                None => piece(seen),
            };
            at = begin
                + match piece {
                    Piece::Tag(length, name, attributes) => {
                        let name = String::from_utf8_lossy(&seen[1..=name]).to_ascii_lowercase();
                        self.text = TEXTS.into_iter().find(|text| *text == name);
                        self.tag(&seen[..length], &name, &attributes, &mut out);
                        length
                    }
                    Piece::Open if seen.len() < LONGEST => {
                        self.held = rest.to_vec();
                        return out;
                    }
                    Piece::Open => {
                        out.extend_from_slice(seen);
                        LONGEST
                    }
                    Piece::Other(length) => {
                        out.extend_from_slice(&seen[..length]);
                        length
                    }
                };
        }
        out.extend_from_slice(&page[at..]);
        out
    }

    fn tag(&self, tag: &[u8], name: &str, attributes: &[(Range<usize>, Range<usize>)], out: &mut Vec<u8>) {
        let links = LINKS.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, attributes)| attributes);
        let mut written = 0;
        for (attribute, value) in attributes {
            let is_link = links.iter().any(|link| tag[attribute.clone()].eq_ignore_ascii_case(link.as_bytes()));
            let link = std::str::from_utf8(&tag[value.clone()]).ok().filter(|_| is_link);
            if let Some(moved) = link.and_then(|link| self.links.moved(link)) {
                out.extend_from_slice(&tag[written..value.start]);
                out.extend_from_slice(moved.as_bytes());
                written = value.end;
            }
        }
        out.extend_from_slice(&tag[written..]);
    }
}

/// What `page`, which begins with `<`, begins with.
fn piece(page: &[u8]) -> Piece {
    if page.starts_with(b"<!--") {
        return memchr::memmem::find(&page[4..], b"-->").map_or(Piece::Open, |end| Piece::Other(end + 7));
    }
    match page.get(1) {
        Some(first) if first.is_ascii_alphabetic() => tag(page).unwrap_or(Piece::Open),
        None | Some(b'!') if page.len() < 4 => Piece::Open,
        _ => Piece::Other(1),
    }
}

/// A start tag; `None` while it has not ended.
fn tag(page: &[u8]) -> Option<Piece> {
    let until = |from: usize, ends: &[u8]| {
        let end = page.get(from..)?.iter().position(|byte| byte.is_ascii_whitespace() || ends.contains(byte))?;
        Some(from + end)
    };
    let past = |from: usize, skipped: &[u8]| {
        let skips = |byte: &u8| byte.is_ascii_whitespace() || skipped.contains(byte);
        Some(from + page.get(from..)?.iter().position(|byte| !skips(byte))?)
    };
    let name = until(1, b"/>")?;
    let (mut at, mut attributes) = (name, Vec::new());
    loop {
        at = past(at, b"/")?;
        if page[at] == b'>' {
            return Some(Piece::Tag(at + 1, name - 1, attributes));
        }
        // A name may begin with an equals sign, which then is part of it.
        let attribute = at..until(at + 1, b"/>=")?;
        at = past(attribute.end, b"")?;
        if page[at] != b'=' {
            continue;
        }
        at = past(at + 1, b"")?;
        let value = match page[at] {
            quote @ (b'"' | b'\'') => at + 1..at + 1 + memchr::memchr(quote, &page[at + 1..])?,
            _ => at..until(at, b">")?,
        };
        at = value.end + usize::from(matches!(page[at], b'"' | b'\''));
        attributes.push((attribute, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/p/proxy".to_owned(), asked: "api:6443".to_owned(), own: "10.0.0.7:80".to_owned() }
    }

    #[test]
    fn links_to_the_site_lead_through_the_proxy() {
        for (link, moved) in [
            ("/a?b#c", Some("/p/proxy/a?b#c")),
            ("/", Some("/p/proxy/")),
            ("/p/proxy/a", None),
            ("a/b", None),
            ("?q", None),
            ("#top", None),
            ("mailto:x@y", None),
            ("http://10.0.0.7:80/a", Some("/p/proxy/a")),
            ("//10.0.0.7:80/p/proxy/a", Some("/p/proxy/a")),
            ("http://10.0.0.7:80", None),
            ("https://api:6443/a", Some("https://api:6443/p/proxy/a")),
            ("https://api:6443/p/proxy/a", None),
            ("https://elsewhere/a", None),
            ("//elsewhere/a", None),
            ("/a//b", Some("/p/proxy/a//b")),
        ] {
            assert_eq!(links().moved(link).as_deref(), moved, "{link}");
        }
    }

    #[test]
    fn pages_are_changed_in_their_links_alone_however_they_are_cut() {
        let page = "<!doctype html><HTML><!-- <a href=\"/no\"> --><head><title><a href=/no></title>\
                    <script src='/s.js'>if (a<b) x = '<img src=\"/no\">';</SCRIPT></head>\
                    <body><a class=x HREF = \"/a?b=1&amp;c\" title=\"/no\">1 < 2</a><img/src=/i.png><img src=r.png>\
                    <form action='/f'><input disabled value=/no></form><p cite=\"/no\"><a href='/unended";
        let moved = "<!doctype html><HTML><!-- <a href=\"/no\"> --><head><title><a href=/no></title>\
                     <script src='/p/proxy/s.js'>if (a<b) x = '<img src=\"/no\">';</SCRIPT></head>\
                     <body><a class=x HREF = \"/p/proxy/a?b=1&amp;c\" title=\"/no\">1 < 2</a><img/src=/p/proxy/i.png>\
                     <img src=r.png><form action='/p/proxy/f'><input disabled value=/no></form><p cite=\"/no\">\
                     <a href='/unended";
        for size in [1, 2, 3, 7, 64, page.len()] {
            let mut rewriter = Rewriter { links: links(), held: Vec::new(), text: None };
            let mut shown: Vec<u8> = page.as_bytes().chunks(size).flat_map(|chunk| rewriter.push(chunk)).collect();
            shown.append(&mut rewriter.held);
            assert_eq!(String::from_utf8(shown).unwrap(), moved, "in pieces of {size}");
        }
        let mut rewriter = Rewriter { links: links(), held: Vec::new(), text: None };
        let endless = format!("<a href=\"/{}", "x".repeat(LONGEST));
        let shown = rewriter.push(endless.as_bytes());
        assert_eq!((shown.len(), rewriter.held.len()), (endless.len(), 0));
    }

    #[tokio::test]
    async fn zipped_pages_are_unzipped_and_other_answers_left_alone() {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(b"<a href=/x>").unwrap();
        let zip = zip.finish().unwrap();
        let gzip = &[("content-type", "text/html; charset=utf-8"), ("content-encoding", "gzip")][..];
        let page = &[("content-type", "text/html"), ("content-length", "11"), ("access-control-allow-origin", "*")][..];
        let text = &[("content-type", "text/plain"), ("content-length", "11")][..];
        let away = &[("content-type", "text/html"), ("location", "/login")][..];
        let (plain, moved) = (&b"<a href=/x>"[..], &b"<a href=/p/proxy/x>"[..]);
        for (headers, sent, shown, told) in [
            (gzip, &zip[..], moved, vec!["content-type"]),
            (page, plain, moved, vec!["content-type"]),
            (text, plain, plain, vec!["content-type", "content-length"]),
            (away, plain, plain, vec!["content-type", "location"]),
        ] {
            let body = http_body_util::Full::new(bytes::Bytes::copy_from_slice(sent)).map_err(|never| match never {});
            let mut response = Response::new(body.boxed_unsync());
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            let response = links().keep_behind(response);
            let names: Vec<&str> = response.headers().keys().map(|name| name.as_str()).collect();
            assert_eq!(names, told);
            if let Some(location) = response.headers().get(header::LOCATION) {
                assert_eq!(location, "/p/proxy/login");
            }
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), shown);
        }
    }
}

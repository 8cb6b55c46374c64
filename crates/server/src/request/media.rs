//! Which form an answer takes: encoding (JSON, YAML, protobuf) and shape (the object, a table, its metadata).

use http::{HeaderMap, header};
use skiff_meta::Status;

/// How bytes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Encoding {
    /// From a media type without parameters.
    pub(crate) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
    /// `Content-Type` of a whole answer.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
    /// `Content-Type` of a watch.
    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Self::Json | Self::Yaml => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

/// What is told of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// All of it.
    #[default]
    Whole,
    /// A row of a `Table`.
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
    /// The metadata of a list where an object is answered, or the other way about: found out when it is.
    Mistaken,
}

/// The form an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// How bytes are made.
    pub(crate) encoding: Encoding,
    /// What is told.
    pub(crate) shape: Shape,
    /// Indented JSON.
    pub(crate) pretty: bool,
    /// gzip is welcome.
    pub(crate) gzip: bool,
}

impl Accept {
    /// Plain JSON.
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Whole, pretty: false, gzip: false };

    /// From the headers. `as_list`: what is asked for is a collection. `protobuf`: the kind has a protobuf form.
    pub(crate) fn negotiate(headers: &HeaderMap, pretty: Option<bool>, offer: Offer) -> Result<Self, Status> {
        let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
        let text = accept.join(",");
        if offer.routed && !is_routed(&text, offer) {
            return Err(unroutable(offer));
        }
        let (encoding, shape) = choose(&text, offer).ok_or_else(|| not_acceptable(offer))?;
        let pretty = encoding == Encoding::Json && pretty.unwrap_or_else(|| for_people(headers));
        Ok(Self { encoding, shape, pretty, gzip: wants_gzip(headers) })
    }
}

/// What a resource can be answered in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// There is a protobuf form.
    pub(crate) protobuf: bool,
    /// The answer is an endless stream.
    pub(crate) stream: bool,
    /// The route has streams.
    pub(crate) streams: bool,
    /// It is a list, for which metadata is `PartialObjectMetadataList`.
    pub(crate) list: bool,
    /// Metadata is on offer.
    pub(crate) shapes: bool,
    /// Tables are.
    pub(crate) tables: bool,
    /// Of a built-in kind: upstream routes by media type before it looks at parameters, and knows no `application/*`.
    pub(crate) routed: bool,
}

/// Media types of the route.
fn routes(offer: Offer) -> &'static [&'static str] {
    const READS: &[&str] = &[
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json;stream=watch",
        "application/vnd.kubernetes.protobuf;stream=watch",
    ];
    if offer.streams { READS } else { &READS[..3] }
}

fn is_routed(text: &str, offer: Offer) -> bool {
    let fits = |media: &str| media.is_empty() || media == "*/*" || routes(offer).contains(&media);
    text.split(',').any(|clause| fits(clause.split(';').next().unwrap_or_default().trim()))
}

/// How the router's refusals begin; those of what is behind it do not.
const OF_THE_ROUTER: &str = "406: Not Acceptable\n";

/// Whether it was the router who refused a form, before anybody looked at the request.
pub(crate) fn is_unroutable(refusal: &Status) -> bool {
    refusal.message.starts_with(OF_THE_ROUTER)
}

/// As upstream's router says it.
fn unroutable(offer: Offer) -> Status {
    let message = format!("{OF_THE_ROUTER}\nAvailable representations: {}", routes(offer).join(", "));
    let mut status = Status::not_acceptable(message);
    status.details = Some(Box::default());
    status
}

fn not_acceptable(offer: Offer) -> Status {
    let mut types = vec!["application/json"];
    if !offer.stream {
        types.push("application/yaml");
    }
    if offer.protobuf {
        types.push("application/vnd.kubernetes.protobuf");
    }
    let types: Vec<String> =
        types.iter().map(|ty| format!("{ty}{}", if offer.stream { ";stream=watch" } else { "" })).collect();
    Status::not_acceptable(format!("only the following media types are accepted: {}", types.join(", ")))
}

/// How a client wants to be told that something went wrong: in the first form it accepts that exists.
pub(crate) fn for_faults(headers: &HeaderMap) -> Encoding {
    let all: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = all.join(",");
    clauses(&text)
        .iter()
        // A shape is not for faults.
        .filter(|clause| clause.params.iter().all(|(name, _)| *name != "as"))
        .find_map(|clause| match clause.media {
            "*/*" | "application/*" => Some(Encoding::Json),
            media => Encoding::of(media),
        })
        .unwrap_or(Encoding::Json)
}

/// The best of a few media types for a client that accepts what its headers say; everything when they say nothing.
pub(crate) fn first_on_offer(headers: &HeaderMap, offered: &[&str]) -> Option<usize> {
    let all: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = all.join(",");
    let fits = |wanted: &str, offered: &str| match wanted.strip_suffix("/*") {
        Some("*") => true,
        Some(class) => offered.split('/').next() == Some(class),
        None => wanted == offered,
    };
    match clauses(&text).as_slice() {
        [] => Some(0),
        clauses => clauses.iter().find_map(|c| offered.iter().position(|o| fits(c.media, o))),
    }
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = text
        .split(',')
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let params: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
            let quality = params.iter().find(|(n, _)| *n == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Clause { media, quality, params }
        })
        .collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

fn choose(text: &str, offer: Offer) -> Option<(Encoding, Shape)> {
    let clauses = clauses(text);
    if clauses.is_empty() {
        return Some((Encoding::Json, Shape::Whole));
    }
    clauses.iter().find_map(|clause| {
        let chosen = (encoding_of(clause.media, offer)?, shape_of(clause, offer)?);
        // Tables have no protobuf form.
        (chosen != (Encoding::Protobuf, Shape::Table)).then_some(chosen)
    })
}

fn encoding_of(media: &str, offer: Offer) -> Option<Encoding> {
    match media {
        "*/*" | "application/*" => Some(Encoding::Json),
        _ => Encoding::of(media).filter(|e| match e {
            Encoding::Json => true,
            Encoding::Yaml => !offer.stream,
            Encoding::Protobuf => offer.protobuf,
        }),
    }
}

/// `None` when the clause asks for a shape that is not on offer.
fn shape_of(clause: &Clause<'_>, offer: Offer) -> Option<Shape> {
    let param = |name: &str| clause.params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let Some(shape) = param("as").filter(|s| !s.is_empty()) else { return Some(Shape::Whole) };
    if !offer.shapes || param("g") != Some("meta.k8s.io") || !matches!(param("v"), Some("v1" | "v1beta1")) {
        return None;
    }
    match shape {
        "Table" => offer.tables.then_some(Shape::Table),
        "PartialObjectMetadata" if !offer.list || offer.stream => Some(Shape::Metadata),
        "PartialObjectMetadataList" if offer.list && !offer.stream => Some(Shape::Metadata),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Mistaken),
        _ => None,
    }
}

fn for_people(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a))
}

fn wants_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING);
    all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|v| {
        let (name, rest) = v.split_once(';').unwrap_or((v, ""));
        name.trim() == "gzip" && rest.trim() != "q=0"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_clause_on_offer_wins() {
        let object = Offer {
            protobuf: true,
            stream: false,
            streams: false,
            list: false,
            shapes: true,
            tables: true,
            routed: false,
        };
        let list = Offer { list: true, ..object };
        let custom = Offer { protobuf: false, ..list };
        let watch = Offer { stream: true, ..list };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let metadata_list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let protobuf = "application/vnd.kubernetes.protobuf,application/json;q=0.5";
        let cases = [
            ("", object, Some((Encoding::Json, Shape::Whole))),
            ("*/*", object, Some((Encoding::Json, Shape::Whole))),
            ("text/html, application/*;q=0.1", object, Some((Encoding::Json, Shape::Whole))),
            ("text/html", object, None),
            ("application/yaml", object, Some((Encoding::Yaml, Shape::Whole))),
            ("application/yaml", watch, None),
            (protobuf, list, Some((Encoding::Protobuf, Shape::Whole))),
            (protobuf, custom, Some((Encoding::Json, Shape::Whole))),
            (table, list, Some((Encoding::Json, Shape::Table))),
            (table, Offer { tables: false, ..list }, Some((Encoding::Json, Shape::Whole))),
            (table, Offer { shapes: false, ..list }, Some((Encoding::Json, Shape::Whole))),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", list, None),
            (metadata, object, Some((Encoding::Json, Shape::Metadata))),
            (metadata, list, Some((Encoding::Json, Shape::Mistaken))),
            (metadata, watch, Some((Encoding::Json, Shape::Metadata))),
            (metadata_list, list, Some((Encoding::Json, Shape::Metadata))),
            ("application/json;q=0.1,application/yaml", object, Some((Encoding::Yaml, Shape::Whole))),
        ];
        for (text, offer, expected) in cases {
            assert_eq!(choose(text, offer), expected, "{text} {offer:?}");
        }
    }
}

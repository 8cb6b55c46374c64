//! W3C trace context: which request, or which earlier write, caused this one.
//!
//! It rides on every request as the `traceparent` header (<https://www.w3.org/TR/trace-context/>), is kept by the store
//! with each write, and comes back on watch events, so that the life of an object can be told from its writes.

use std::fmt;
use std::str::FromStr;

/// The ids of one `traceparent` header, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The whole story's id, never zero.
    pub trace_id: u128,
    /// The id of the step that caused what this is attached to, never zero.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// A `traceparent` header that cannot be read; such a header is ignored, as the standard asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTraceParent;

impl TraceContext {
    /// Starts a new story; `random` supplies the ids.
    pub fn root(mut random: impl FnMut() -> u64) -> Self {
        let trace_id = (u128::from(random()) << 64) | u128::from(random()) | 1;
        Self { trace_id, span_id: random() | 1, flags: 1 }
    }

    /// The next step of the same story.
    pub fn child(self, mut random: impl FnMut() -> u64) -> Self {
        Self { span_id: random() | 1, ..self }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = BadTraceParent;
    fn from_str(s: &str) -> Result<Self, BadTraceParent> {
        let mut parts = s.split('-');
        let version = parts.next().ok_or(BadTraceParent)?;
        let (trace, span) = (parts.next().ok_or(BadTraceParent)?, parts.next().ok_or(BadTraceParent)?);
        let flags = parts.next().ok_or(BadTraceParent)?;
        let hex = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let sizes = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
        if !sizes || version == "ff" || ![version, trace, span, flags].into_iter().all(hex) {
            return Err(BadTraceParent);
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| BadTraceParent)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| BadTraceParent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| BadTraceParent)?;
        if trace_id == 0 || span_id == 0 {
            return Err(BadTraceParent);
        }
        Ok(Self { trace_id, span_id, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceContext = text.parse().expect("a valid header");
        assert_eq!(parsed.to_string(), text);
        for bad in ["", "00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &text.to_uppercase()] {
            assert_eq!(bad.parse::<TraceContext>(), Err(BadTraceParent), "{bad}");
        }
    }
}

//! The lines of a container's log as CRI runtimes write them: time, stream, whether the line is whole, and the text
//! (`design-proposals-archive/node/kubelet-cri-logging.md` upstream). Pure.

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// RFC 3339 with nanoseconds.
    pub(super) time: &'a str,
    /// `stdout` or `stderr`.
    pub(super) stream: &'a str,
    /// Whether more of the same line follows.
    pub(super) partial: bool,
    /// The text, without the line's end.
    pub(super) text: &'a [u8],
}

/// Reads one line (without its end); `None` when it has another form.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next()?;
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some(Entry { time, stream, partial, text })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Nothing before this time.
    pub(super) since: Option<jiff::Timestamp>,
    /// Only this stream; empty: both.
    pub(super) stream: String,
    /// With times.
    pub(super) timestamps: bool,
}

impl Wanted {
    /// Appends what is to be shown of the line, if anything.
    pub(super) fn show(&self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse(line) else { return };
        if !self.stream.is_empty() && entry.stream != self.stream {
            return;
        }
        if self.since.is_some_and(|since| entry.time.parse::<jiff::Timestamp>().is_ok_and(|time| time < since)) {
            return;
        }
        if self.timestamps {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
    }
}

/// Where the last `count` whole lines of a log begin.
pub(super) fn tail_start(log: &[u8], count: usize) -> usize {
    if count == 0 {
        return log.len();
    }
    let (mut found, mut end) = (0, log.len());
    // Going backwards, a line begins after the end of the line before it that is not partial.
    while end > 0 {
        let start = log[..end - 1].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let whole = parse(log[start..end].strip_suffix(b"\n").unwrap_or(&log[start..end])).is_none_or(|e| !e.partial);
        if whole {
            found += 1;
            if found > count {
                return end;
            }
        }
        end = start;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.1Z stderr P tw\n2026-01-01T00:00:01.2Z stderr F o\n2026-01-01T00:00:02Z stdout F three  x\n";

    fn shown(wanted: &Wanted, log: &[u8]) -> String {
        let mut out = Vec::new();
        log.split(|b| *b == b'\n').for_each(|line| wanted.show(line, &mut out));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn lines() {
        assert_eq!(shown(&Wanted::default(), LOG), "one\ntwo\nthree  x\n");
        assert_eq!(shown(&Wanted { stream: "stderr".into(), ..Wanted::default() }, LOG), "two\n");
        assert_eq!(
            shown(&Wanted { since: "2026-01-01T00:00:02Z".parse().ok(), timestamps: true, ..Wanted::default() }, LOG),
            "2026-01-01T00:00:02Z three  x\n"
        );
        assert_eq!(shown(&Wanted::default(), b"garbage\n"), "");
    }

    #[test]
    fn tails() {
        for (count, expected) in [
            (0, ""),
            (1, "three  x\n"),
            (2, "two\nthree  x\n"),
            (3, "one\ntwo\nthree  x\n"),
            (9, "one\ntwo\nthree  x\n"),
        ] {
            assert_eq!(shown(&Wanted::default(), &LOG[tail_start(LOG, count)..]), expected, "{count}");
        }
        assert_eq!(tail_start(b"", 3), 0);
    }
}

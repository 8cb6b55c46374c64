//! Durations as tables show them, with two or three figures (`k8s.io/apimachinery/pkg/util/duration`).

use jiff::Timestamp;
use serde_json::Value;

use crate::view::View;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// `two` units, or one when there is no rest: `3m`, `3m12s`.
fn two(whole: i64, unit: char, rest: i64, small: char) -> String {
    if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
}

/// `seconds` for people.
pub(crate) fn human(seconds: i64) -> String {
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, 'm', seconds % MINUTE, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, 'y', seconds % YEAR / DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// A time in JSON.
pub(crate) fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// From `from` to `to` in whole seconds.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    (to.as_nanosecond() - from.as_nanosecond()).div_euclid(1_000_000_000).try_into().unwrap_or(i64::MAX)
}

/// How long ago `value` was, `<unknown>` when it is no time.
pub(crate) fn since(value: &Value, now: Timestamp) -> String {
    timestamp(value).map_or_else(|| "<unknown>".to_owned(), |then| human(seconds_between(then, now)))
}

/// The age of an object, as a cell.
pub(crate) fn cell(object: &Value, now: Timestamp) -> Value {
    since(object.at("metadata.creationTimestamp"), now).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_shows_them() {
        for (seconds, shown) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (2 * HOUR, "120m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 61, "3h1m"),
            (8 * HOUR, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY, "8d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (9 * YEAR, "9y"),
        ] {
            assert_eq!(human(seconds), shown, "{seconds}");
        }
    }
}

//! Cells as upstream's tables have them.

use jiff::Timestamp;
use serde_json::Value;

use crate::tree::{items, members, text};

/// `5s`, `3m12s`, `2d3h`: how long ago; `<unknown>` without a time.
pub(crate) fn age(time: &Value, now: Timestamp) -> String {
    match text(time).parse::<Timestamp>() {
        Ok(then) => duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in the two units that matter (upstream's `HumanDuration`).
pub(crate) fn duration(seconds: i64) -> String {
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The name of the object.
pub(crate) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The age of the object.
pub(crate) fn created(object: &Value, now: Timestamp) -> Value {
    age(&object["metadata"]["creationTimestamp"], now).into()
}

/// Text, or `<none>`.
pub(crate) fn or_none(value: &Value) -> Value {
    match text(value) {
        "" => "<none>".into(),
        text => text.into(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(value: &Value) -> Value {
    let all: Vec<String> =
        members(value).map(|(k, v)| if text(v).is_empty() { k.clone() } else { format!("{k}={}", text(v)) }).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",").into() }
}

/// A LabelSelector, as text.
pub(crate) fn selector(value: &Value) -> Value {
    let mut all: Vec<String> = members(&value["matchLabels"]).map(|(k, v)| format!("{k}={}", text(v))).collect();
    for expression in items(&value["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values: Vec<&str> = items(&expression["values"]).iter().map(text).collect();
        all.push(match text(&expression["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if all.is_empty() { "<none>".into() } else { all.join(",").into() }
}

/// Names and images of containers.
pub(crate) fn containers(spec: &Value) -> [Value; 2] {
    let join =
        |field: &str| items(&spec["containers"]).iter().map(|c| text(&c[field])).collect::<Vec<_>>().join(",").into();
    [join("name"), join("image")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}

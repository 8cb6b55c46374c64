//! Whether a text is a schedule, in the five fields of cron or by a name such as `@hourly`.
//!
//! The words of the faults are those of the parser upstream uses, since they reach users.

/// One field of a schedule: its bounds and the names its values have.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field { low: 1, high: 12, names: MONTHS },
    Field { low: 0, high: 6, names: DAYS },
];
const NAMED: &[&str] = &["@annually", "@daily", "@hourly", "@midnight", "@monthly", "@weekly", "@yearly"];

/// What is wrong with `schedule`.
pub(crate) fn fault(schedule: &str) -> Option<String> {
    let schedule = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim(),
        None => schedule,
    };
    if schedule.is_empty() {
        return Some("empty spec string".to_owned());
    }
    if schedule.starts_with('@') {
        return named(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let each = fields.iter().zip(&FIELDS);
    each.flat_map(|(text, field)| text.split(',').filter(|part| !part.is_empty()).map(move |part| (part, field)))
        .find_map(|(part, field)| range(part, field).err())
}

fn named(schedule: &str) -> Option<String> {
    if NAMED.contains(&schedule) {
        return None;
    }
    let Some(every) = schedule.strip_prefix("@every ") else {
        return Some(format!("unrecognized descriptor: {schedule}"));
    };
    (!is_duration(every)).then(|| format!("failed to parse duration {schedule}: time: invalid duration {every:?}"))
}

/// Durations such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let Some(after) = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find_map(|unit| digits.strip_prefix(unit))
        else {
            return false;
        };
        if digits.len() == rest.len() {
            return false;
        }
        rest = after;
    }
    !text.is_empty()
}

/// `*`, `5`, `1-5`, `*/10`, `1-30/2`.
fn range(text: &str, field: &Field) -> Result<(), String> {
    let (span, step) = match text.split('/').collect::<Vec<_>>()[..] {
        [span] => (span, None),
        [span, step] => (span, Some(step)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let (low, mut high) = match span.split('-').collect::<Vec<_>>()[..] {
        ["*" | "?"] => (field.low, field.high),
        [one] => number(one, field).map(|n| (n, n))?,
        [low, high] => (number(low, field)?, number(high, field)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    if let Some(step) = step {
        if number(step, &FIELDS[0])? == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        if !span.contains('-') {
            high = field.high;
        }
    }
    if low < field.low {
        return Err(format!("beginning of range ({low}) below minimum ({}): {text}", field.low));
    }
    if high > field.high {
        return Err(format!("end of range ({high}) above maximum ({}): {text}", field.high));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
    }
    Ok(())
}

fn number(text: &str, field: &Field) -> Result<u32, String> {
    if let Some(i) = field.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        return Ok(field.low + u32::try_from(i).unwrap_or_default());
    }
    let why = "invalid syntax";
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for fine in ["*/5 * * * *", "0 0 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 22 * * 1-5", "5/10 * ? * *"] {
            assert_eq!(fault(fine), None, "{fine}");
        }
        for (bad, expected) in [
            ("", "empty spec string"),
            ("soon", "expected exactly 5 fields, found 1: [soon]"),
            ("@soon", "unrecognized descriptor: @soon"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(fault(bad).as_deref(), Some(expected), "{bad}");
        }
    }
}

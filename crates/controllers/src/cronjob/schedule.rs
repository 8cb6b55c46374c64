//! Cron schedules: five fields, or `@hourly` and the like, or `@every 1h30m`. Pure.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// How many days ahead a time is searched for: leap days come every four years, but for the turn of most centuries.
const HORIZON: i32 = 366 * 9;

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Schedule {
    /// Every minute that fits all fields.
    Fields(Box<Fields>),
    /// At intervals, in seconds.
    Every(i64),
}

/// The minutes, hours, ... that fit, as sets of bits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days, weekdays were left open: where both are given, either will do.
    any_day: bool,
    any_weekday: bool,
}

/// A schedule that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadSchedule(String);

fn bad(what: impl Into<String>) -> BadSchedule {
    BadSchedule(what.into())
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub(crate) fn parse(text: &str) -> Result<Self, BadSchedule> {
        let text = text.trim();
        if let Some(interval) = text.strip_prefix("@every ") {
            let interval: SignedDuration = interval.trim().parse().map_err(|e: jiff::Error| bad(e.to_string()))?;
            return Ok(Self::Every(interval.as_secs().max(1)));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = *fields else {
            return Err(bad(format!("expected exactly 5 fields, found {}: [{text}]", fields.len())));
        };
        let open = |field: &str| field.split(',').any(|part| matches!(part.split('/').next(), Some("*" | "?")));
        let mut week = bits(weekdays, 0, 7, &WEEKDAYS)?;
        // Sunday has two numbers.
        week |= week >> 7 & 1;
        Ok(Self::Fields(Box::new(Fields {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, &MONTHS)?,
            weekdays: week,
            any_day: open(days),
            any_weekday: open(weekdays),
        })))
    }

    /// The first time after `time`; `None`: there is none, such as on a 31st of February.
    pub(crate) fn next(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                let next = time.checked_add(SignedDuration::from_secs(*seconds)).ok()?;
                Timestamp::from_second(next.as_second()).ok()
            }
            Self::Fields(fields) => fields.next(time, zone),
        }
    }
}

impl Fields {
    fn next(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let now = time.to_zoned(zone.clone()).datetime();
        let mut date = now.date();
        for _ in 0..HORIZON {
            if self.fits(date) {
                let found = self.times(date).filter_map(|at| Some(at.to_zoned(zone.clone()).ok()?.timestamp()));
                if let Some(found) = found.into_iter().find(|at| *at > time) {
                    return Some(found);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn fits(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && either
    }

    fn times(&self, date: Date) -> impl Iterator<Item = DateTime> {
        let hours = (0..24).filter(|hour| has(self.hours, *hour));
        hours.flat_map(move |hour| {
            let minutes = (0..60).filter(|minute| has(self.minutes, *minute));
            minutes.map(move |minute| date.at(hour, minute, 0, 0))
        })
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits >> number & 1 == 1)
}

/// The numbers of one field: `*`, `5`, `1-5`, `*/15`, `10/5`, names, and lists of these.
fn bits(field: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, BadSchedule> {
    let number = |text: &str| -> Result<u32, BadSchedule> {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        // Names of months begin at 1, those of days at 0, as their numbers do.
        let named = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + low);
        let number = named.map_or_else(|| text.parse().map_err(|_| bad(format!("failed to parse {text:?}"))), Ok)?;
        if (low..=high).contains(&number) { Ok(number) } else { Err(bad(format!("{number} is not in {low}-{high}"))) }
    };
    let mut all = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| *step > 0);
                (range, Some(step.ok_or_else(|| bad(format!("bad step in {part:?}")))?))
            }
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => (low, high),
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                // A step after a single number goes on to the end.
                None => (number(range)?, if step.is_some() { high } else { number(range)? }),
            },
        };
        if first > last {
            return Err(bad(format!("beginning of range ({first}) beyond end of range ({last}): {part}")));
        }
        all |= (first..=last).step_by(step.unwrap_or(1)).fold(0u64, |bits, number| bits | 1 << number);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_time() {
        let table = [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("30 6 1,15 * *", "2026-01-01T07:00:00Z", "2026-01-15T06:30:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
        ];
        for (text, after, expected) in table {
            let schedule = Schedule::parse(text).unwrap();
            let next = schedule.next(after.parse().unwrap(), &TimeZone::UTC).unwrap();
            assert_eq!(next.to_string(), expected, "{text}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }

    #[test]
    fn zones_count() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let next = Schedule::parse("0 8 * * *").unwrap().next("2026-01-01T07:00:00Z".parse().unwrap(), &zone);
        assert_eq!(next.unwrap().to_string(), "2026-01-02T06:00:00Z");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "5-1 * * * *", "*/0 * * * *", "x * * * *", "@every x", "* * * 13 *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}

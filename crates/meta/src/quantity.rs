//! Amounts of resources: `100m`, `1.5Gi`, `2e3` (`k8s.io/apimachinery/pkg/api/resource`).
//!
//! A quantity is exact decimal: a whole number times a power of ten, never finer than one billionth (finer amounts are
//! rounded away from zero, as whoever asks for something shall get something). It remembers which family of suffixes
//! it was written with, and prints in canonical form: the largest suffix that leaves a whole number.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// Family of suffixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    #[default]
    DecimalSi,
}

/// Text that is no quantity; the words are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the general form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read, or has more than 38 digits.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// `mantissa * 10^exponent`, with `exponent >= -9`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    mantissa: i128,
    exponent: i32,
    format: Format,
}

const NANO: i32 = -9;
/// Beyond this, powers of ten leave `i128`.
const MAX_SHIFT: u32 = 38;

impl Quantity {
    /// `value`, in `format`.
    pub fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), exponent: 0, format }
    }
    /// `value` thousandths, in `format`.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), exponent: -3, format }
    }
    /// A quantity in JSON: a string, or a number.
    ///
    /// # Errors
    /// When it is neither or cannot be read.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }
    /// The family of suffixes it prints with.
    pub fn format(self) -> Format {
        self.format
    }
    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }
    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }
    /// The amount in whole units, rounded away from zero, capped to `i64`.
    pub fn value(self) -> i64 {
        self.scaled(0).0
    }
    /// The amount in thousandths, rounded away from zero, capped to `i64`.
    pub fn milli(self) -> i64 {
        self.scaled(-3).0
    }
    /// The amount as a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }
    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.scaled(0).1
    }

    /// In units of `10^scale`, and whether that is exact.
    fn scaled(self, scale: i32) -> (i64, bool) {
        let (wide, exact) = if self.exponent >= scale {
            let power = power_of_ten((self.exponent - scale).unsigned_abs());
            (power.map_or(saturated(self.mantissa), |p| self.mantissa.saturating_mul(p)), true)
        } else {
            divide_away(self.mantissa, (scale - self.exponent).unsigned_abs())
        };
        match i64::try_from(wide) {
            Ok(value) => (value, exact),
            Err(_) => (if wide < 0 { i64::MIN } else { i64::MAX }, false),
        }
    }

    /// The sum; zero takes on the other's format.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let (a, b, exponent) = self.aligned(other);
        Self { mantissa: a.saturating_add(b), exponent, format }
    }
    /// The difference.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }
    /// `0 - self`.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }
    /// `factor` times as much.
    #[must_use]
    pub fn times(self, factor: i64) -> Self {
        Self { mantissa: self.mantissa.saturating_mul(factor.into()), ..self }
    }

    /// Both mantissas at one exponent.
    fn aligned(self, other: Self) -> (i128, i128, i32) {
        if self.is_zero() {
            return (0, other.mantissa, other.exponent);
        }
        if other.is_zero() {
            return (self.mantissa, 0, self.exponent);
        }
        let exponent = self.exponent.min(other.exponent);
        let grow = |q: Self| {
            let power = power_of_ten((q.exponent - exponent).unsigned_abs());
            power.map_or(saturated(q.mantissa), |p| q.mantissa.saturating_mul(p))
        };
        (grow(self), grow(other), exponent)
    }

    /// Mantissa without trailing zeros, with an exponent divisible by three.
    fn canonical_decimal(self) -> (i128, i32) {
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        while exponent.rem_euclid(3) != 0 {
            mantissa = mantissa.saturating_mul(10);
            exponent -= 1;
        }
        (mantissa, exponent)
    }
}

fn saturated(sign: i128) -> i128 {
    match sign.cmp(&0) {
        Ordering::Less => i128::MIN,
        Ordering::Equal => 0,
        Ordering::Greater => i128::MAX,
    }
}

fn power_of_ten(power: u32) -> Option<i128> {
    if power > MAX_SHIFT { None } else { 10i128.checked_pow(power) }
}

/// `mantissa / 10^shift` rounded away from zero, and whether that is exact.
fn divide_away(mantissa: i128, shift: u32) -> (i128, bool) {
    let Some(divisor) = power_of_ten(shift) else {
        return (mantissa.signum(), mantissa == 0);
    };
    let (quotient, rest) = (mantissa / divisor, mantissa % divisor);
    if rest == 0 { (quotient, true) } else { (quotient + mantissa.signum(), false) }
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn take_apart(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
        None => return Err(QuantityError::Format),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let exponent = &suffix[letters..];
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if digits(exponent) != exponent.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts { negative, whole: whole.trim_start_matches('0'), fraction, suffix })
}

/// Base-ten and base-two exponent of a suffix.
fn suffix_powers(suffix: &str) -> Result<(i32, u32, Format), QuantityError> {
    let si = |power| Ok((power, 0, Format::DecimalSi));
    let binary = |power| Ok((0, power, Format::BinarySi));
    match suffix {
        "" => si(0),
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power = suffix.strip_prefix(['e', 'E']).and_then(|n| n.parse().ok()).ok_or(QuantityError::Suffix)?;
            Ok((power, 0, Format::DecimalExponent))
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = take_apart(text)?;
        let (ten, two, mut format) = suffix_powers(parts.suffix)?;
        let fraction = parts.fraction.trim_end_matches('0');
        let digits = format!("{}{fraction}", parts.whole);
        if digits.is_empty() {
            // "." and "+" have no digit at all, but upstream reads them as zero too.
            return Ok(Self { format, ..Self::default() });
        }
        let number: i128 = digits.parse().map_err(|_| QuantityError::Numeric)?;
        let mut mantissa = number.checked_mul(1i128 << two).ok_or(QuantityError::Numeric)?;
        let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let mut exponent = ten.checked_sub(places).ok_or(QuantityError::Numeric)?;
        if exponent < NANO {
            mantissa = divide_away(mantissa, exponent.abs_diff(NANO)).0;
            exponent = NANO;
        }
        if format == Format::BinarySi {
            let whole = divide_away(mantissa, exponent.unsigned_abs());
            if whole.0 > i64::MAX.into() {
                (mantissa, exponent) = (i64::MAX.into(), 0);
            } else if whole.0 == 1 && !whole.1 {
                format = Format::DecimalSi;
            }
        }
        if parts.negative {
            mantissa = -mantissa;
        }
        Ok(Self { mantissa, exponent, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let (whole, exact) = self.scaled(0);
        if self.format == Format::BinarySi && exact && whole.unsigned_abs() >= 1024 {
            let (mut amount, mut step) = (whole, 0);
            while amount % 1024 == 0 && step < 6 {
                amount /= 1024;
                step += 1;
            }
            return write!(f, "{amount}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let (mut mantissa, mut exponent) = self.canonical_decimal();
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        while exponent > 18 {
            mantissa = mantissa.saturating_mul(1000);
            exponent -= 3;
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3).clamp(0, 9) as usize];
        write!(f, "{mantissa}{suffix}")
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b, _) = self.aligned(*other);
        a.cmp(&b)
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

/// The text a quantity is stored with.
///
/// # Errors
/// When the text is no quantity.
pub fn canonical_text(text: &str) -> Result<String, QuantityError> {
    Ok(text.parse::<Quantity>()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1Gi", "107374182400m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("128Mi", "128Mi"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e4", "120e3"),
            ("5E", "5E"),
            ("-1.5Gi", "-1536Mi"),
            ("+7", "7"),
            ("007", "7"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("100Ei", "9223372036854775807"),
            ("1Ei", "1Ei"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1mm", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1Ki3", QuantityError::Suffix),
            ("1eee3", QuantityError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|_| ()), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic_and_order() {
        assert_eq!(q("1").plus(q("500m")).to_string(), "1500m");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").minus(q("512Mi")).to_string(), "512Mi");
        assert_eq!(q("250m").times(4).to_string(), "1");
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1e1000") > q("1Ei") && q("-1e1000") < q("0"));
        assert!(q("999m") < q("1"));
        assert_eq!((q("1.1").value(), q("-1.1").value(), q("100m").milli(), q("1e30").value()), (2, -2, 100, i64::MAX));
        assert!(!q("1.5").is_whole() && q("2k").is_whole());
    }

    #[test]
    fn from_json_takes_numbers() {
        assert_eq!(Quantity::from_json(&serde_json::json!(2)).map(|q| q.to_string()), Ok("2".to_owned()));
        assert_eq!(Quantity::from_json(&serde_json::json!(0.5)).map(|q| q.to_string()), Ok("500m".to_owned()));
        assert!(Quantity::from_json(&serde_json::json!(true)).is_err());
    }
}

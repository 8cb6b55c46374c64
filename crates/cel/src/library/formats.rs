//! Named formats: `format.dns1123Label().validate(text)` gives the faults of a text, or nothing.

use base64::Engine as _;
use skiff_meta::names;

use super::Function;
use super::url::Url;
use crate::error::Error;
use crate::value::{Evaluated, Special, Value};

/// A format with its faults.
#[derive(Debug)]
pub struct Format {
    /// Upstream's name for it.
    pub name: &'static str,
    /// The functions that give it.
    call: &'static str,
    pub(crate) pattern_size: u64,
    faults: fn(&str) -> Vec<String>,
}

/// The functions that give formats.
pub(crate) const NAMES: [&str; 13] = [
    "format.dns1123Label",
    "format.dns1123Subdomain",
    "format.dns1035Label",
    "format.qualifiedName",
    "format.dns1123LabelPrefix",
    "format.dns1123SubdomainPrefix",
    "format.dns1035LabelPrefix",
    "format.labelValue",
    "format.uri",
    "format.uuid",
    "format.byte",
    "format.date",
    "format.datetime",
];

static FORMATS: [Format; 13] = [
    format("DNS1123Label", NAMES[0], 30, |text| names::NameForm::Label.faults(text, false)),
    format("DNS1123Subdomain", NAMES[1], 60, |text| names::NameForm::Subdomain.faults(text, false)),
    format("DNS1035Label", NAMES[2], 30, |text| names::NameForm::Label1035.faults(text, false)),
    format("QualifiedName", NAMES[3], 60, names::qualified_name),
    format("DNS1123LabelPrefix", NAMES[4], 30, |text| names::NameForm::Label.faults(text, true)),
    format("DNS1123SubdomainPrefix", NAMES[5], 60, |text| names::NameForm::Subdomain.faults(text, true)),
    format("DNS1035LabelPrefix", NAMES[6], 30, |text| names::NameForm::Label1035.faults(text, true)),
    format("LabelValue", NAMES[7], 40, names::label_value),
    format("URI", NAMES[8], 1163, |text| match Url::parse(text) {
        Ok(_) => Vec::new(),
        Err(why) => vec![format!("parse {text:?}: {why}")],
    }),
    format("uuid", NAMES[9], 72, |text| fault(is_uuid(text), "does not match the UUID format")),
    format("byte", NAMES[10], 84, |text| {
        let valid = base64::engine::general_purpose::STANDARD.decode(text).is_ok();
        fault(valid, "invalid base64")
    }),
    format("date", NAMES[11], 118, |text| fault(crate::time::parse_date(text).is_some(), "invalid date")),
    format("datetime", NAMES[12], 118, |text| fault(crate::time::parse_date_time(text).is_some(), "invalid datetime")),
];

const fn format(name: &'static str, call: &'static str, pattern_size: u64, faults: fn(&str) -> Vec<String>) -> Format {
    Format { name, call, pattern_size, faults }
}

fn fault(valid: bool, words: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![words.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'-').map(|(i, _)| i).collect();
    digits == 32 && (text.len() == 32 || (text.len() == 36 && dashes == [8, 13, 18, 23]))
}

pub(super) fn function(name: &str) -> Option<Function> {
    match name {
        "format.named" => Some(|args| match args {
            [Value::String(name)] => {
                let found = FORMATS.iter().find(|f| f.call.strip_prefix("format.") == Some(&**name));
                Ok(found.map(|f| Special::Format(f).into()).into())
            }
            _ => Err(Error::no_overload()),
        }),
        "validate" => Some(validate),
        _ => super::by_name!(
            name,
            given,
            [
                "format.dns1123Label",
                "format.dns1123Subdomain",
                "format.dns1035Label",
                "format.qualifiedName",
                "format.dns1123LabelPrefix",
                "format.dns1123SubdomainPrefix",
                "format.dns1035LabelPrefix",
                "format.labelValue",
                "format.uri",
                "format.uuid",
                "format.byte",
                "format.date",
                "format.datetime"
            ]
        ),
    }
}

fn given<'a>(call: &str, _: &[Value<'a>]) -> Evaluated<'a> {
    let found = FORMATS.iter().find(|f| f.call == call).ok_or_else(Error::no_overload)?;
    Ok(Special::Format(found).into())
}

fn validate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Library(special), Value::String(text)] = args else { return Err(Error::no_overload()) };
    let Special::Format(format) = &**special else { return Err(Error::no_overload()) };
    let faults = (format.faults)(text);
    Ok((!faults.is_empty()).then(|| faults.into_iter().map(Value::from).collect::<Vec<_>>().into()).into())
}

//! Between a version as it is served and the form in which it is stored.
//!
//! Most versions are stored as they are. Versions of custom kinds differ in their name (strategy `None`) and in what
//! their schemas know; those that a webhook converts are as they are by the time they come here (see
//! [`crate::conversion`]). The two groups of `Event` show the same objects with some fields called otherwise.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::custom::ByDefinition;

/// How to convert.
#[derive(Clone)]
pub(crate) enum Conversion {
    /// Stored as served.
    Same,
    /// Only `apiVersion` differs: served as, stored as.
    Renamed {
        /// `apiVersion` as served.
        served: String,
        /// `apiVersion` as stored.
        stored: String,
    },
    /// Versions of a custom kind.
    Custom {
        /// As served.
        served: Arc<ByDefinition>,
        /// As stored.
        stored: Arc<ByDefinition>,
    },
    /// `autoscaling/v1`, which knows one target only, stored as `v2`.
    AutoscalerV1,
    /// Definitions of custom kinds as upstream keeps them, which are never served so.
    DefinitionV1beta1,
    /// `apiVersion` and some members at the top: (served, stored).
    Members {
        /// `apiVersion` as served.
        served: String,
        /// `apiVersion` as stored.
        stored: String,
        /// Pairs of names: as served, as stored.
        members: &'static [(&'static str, &'static str)],
        /// Texts that are always there as stored, and as served only when they say something: their stored names.
        texts: &'static [&'static str],
    },
}

/// `events.k8s.io/v1` and core `v1`.
pub(crate) const EVENT_MEMBERS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// What only core `v1` always says of an event.
pub(crate) const EVENT_TEXTS: &[&str] = &["reportingComponent", "reportingInstance"];

fn set_version(object: &mut Map<String, Value>, version: &str) {
    object.insert("apiVersion".to_owned(), Value::from(version));
}

impl Conversion {
    /// Whether stored bytes can be sent as they are.
    pub(crate) fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }

    /// From the stored form to the served one.
    pub(crate) fn to_served(&self, object: &mut Value) {
        if let Self::Custom { served, .. } = self {
            return served.adopt(object);
        }
        let Some(object) = object.as_object_mut() else { return };
        match self {
            Self::Same | Self::DefinitionV1beta1 | Self::Custom { .. } => {}
            Self::Renamed { served, .. } => set_version(object, served),
            Self::AutoscalerV1 => super::autoscaler::to_v1(object),
            Self::Members { served, members, texts, .. } => {
                object.retain(|name, value| value != "" || !texts.contains(&name.as_str()));
                for (outside, inside) in *members {
                    if let Some(value) = object.remove(*inside) {
                        object.insert((*outside).to_owned(), value);
                    }
                }
                set_version(object, served);
            }
        }
    }

    /// From the served form to the stored one.
    pub(crate) fn to_stored(&self, object: &mut Value) {
        if let Self::Custom { stored, .. } = self {
            return stored.adopt(object);
        }
        let Some(object) = object.as_object_mut() else { return };
        match self {
            Self::Same | Self::Custom { .. } => {}
            Self::Renamed { stored, .. } => set_version(object, stored),
            Self::AutoscalerV1 => super::autoscaler::to_v2(object),
            Self::DefinitionV1beta1 => super::definition_v1beta1::to_v1(object),
            Self::Members { stored, members, texts, .. } => {
                for (outside, inside) in *members {
                    if let Some(value) = object.remove(*outside) {
                        object.insert((*inside).to_owned(), value);
                    }
                }
                for text in *texts {
                    object.entry(*text).or_insert_with(|| Value::from(""));
                }
                set_version(object, stored);
            }
        }
    }

    /// The stored name of a field selector's field.
    pub(crate) fn stored_field(&self, field: &str) -> String {
        if let Self::Members { members, .. } = self {
            for (outside, inside) in *members {
                if let Some(rest) = field.strip_prefix(outside)
                    && (rest.is_empty() || rest.starts_with('.'))
                {
                    return format!("{inside}{rest}");
                }
            }
        }
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_of_both_groups_are_the_same_objects() {
        let (members, texts) = (EVENT_MEMBERS, EVENT_TEXTS);
        let conversion = Conversion::Members { served: "events.k8s.io/v1".into(), stored: "v1".into(), members, texts };
        let served =
            json!({"apiVersion": "events.k8s.io/v1", "regarding": {"kind": "Pod"}, "note": "n", "type": "Normal"});
        let stored = json!({"apiVersion": "v1", "involvedObject": {"kind": "Pod"}, "message": "n", "type": "Normal",
            "reportingComponent": "", "reportingInstance": ""});
        let mut object = served.clone();
        conversion.to_stored(&mut object);
        assert_eq!(object, stored);
        conversion.to_served(&mut object);
        assert_eq!(object, served);
        assert_eq!(conversion.stored_field("regarding.kind"), "involvedObject.kind");
        assert_eq!(conversion.stored_field("reason"), "reason");
    }
}

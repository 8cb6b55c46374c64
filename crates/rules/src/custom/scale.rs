//! Where a custom kind keeps the numbers of its scale, and whether they make sense.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use crate::tree::text;

/// `subresources.scale` of a version.
pub(super) struct Paths {
    spec_replicas: String,
    status_replicas: String,
    label_selector: String,
}

impl Paths {
    /// `None` where the version has no scale.
    pub(super) fn read(scale: &Value) -> Option<Self> {
        scale.is_object().then(|| Self {
            spec_replicas: text(&scale["specReplicasPath"]).to_owned(),
            status_replicas: text(&scale["statusReplicasPath"]).to_owned(),
            label_selector: text(&scale["labelSelectorPath"]).to_owned(),
        })
    }

    pub(super) fn check_spec(&self, object: &Value, faults: &mut FieldErrors) {
        replicas(object, &self.spec_replicas, faults);
    }

    pub(super) fn check_status(&self, object: &Value, faults: &mut FieldErrors) {
        replicas(object, &self.status_replicas, faults);
        if let Some(found) = value_at(object, &self.label_selector).filter(|v| !v.is_string()) {
            let detail = format!("{} accessor error: {found} is not a string", self.label_selector);
            faults.push(FieldError::invalid(&FieldPath::new(&*self.label_selector), "", &detail));
        }
    }
}

fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(object, |here, name| here.get(name))
}

fn replicas(object: &Value, path: &str, faults: &mut FieldErrors) {
    let Some(found) = value_at(object, path) else { return };
    let detail = match found.as_i64() {
        None => format!("{path} accessor error: {found} is not an integer"),
        Some(..0) => "should be a non-negative integer".to_owned(),
        Some(number) if number > i64::from(i32::MAX) => format!("should be less than or equal to {}", i32::MAX),
        Some(_) => return,
    };
    faults.push(FieldError::invalid(&FieldPath::new(path), found.as_i64().unwrap_or(0), &detail));
}

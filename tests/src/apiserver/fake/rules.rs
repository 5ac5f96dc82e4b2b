//! What requests and answers have in common: words of refusals, validation, merging, partial objects.

use hyper::Response;
use serde_json::{Value, json};

use super::{
    answer::{Body, Denied},
    request::Asked,
    selector::Selectors,
};

/// What annotations of an object may weigh together.
const ANNOTATIONS: usize = 256 * 1024;

/// A failure as API servers word it.
pub(super) fn failed(code: u16, retry_after: Option<u32>) -> Response<Body> {
    let (reason, message) = match code {
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", "forbidden by the test"),
        410 => ("Expired", "too old resource version"),
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        ),
        503 => ("ServiceUnavailable", "apiserver not ready"),
        504 => ("Timeout", "request did not complete within the allotted timeout"),
        _ => ("InternalError", "an error on the server has prevented the request from succeeding"),
    };
    Denied { retry_after, ..Denied::new(code, reason, message) }.response()
}

pub(super) fn selectors(asked: &Asked) -> Result<Selectors, Denied> {
    Selectors::parse(asked.parameter("labelSelector"), asked.parameter("fieldSelector"))
}

pub(super) fn missing(asked: &Asked) -> Denied {
    Denied::new(404, "NotFound", &format!("{} \"{}\" not found", asked.resource, asked.name))
}

pub(super) fn invalid(text: &str) -> Denied {
    Denied::new(422, "Invalid", text)
}

pub(super) fn check(object: &Value) -> Result<(), Denied> {
    let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
    let size: usize =
        annotations.map(|(name, value)| name.len() + value.as_str().unwrap_or_default().len()).sum();
    if size > ANNOTATIONS {
        return Err(invalid(&format!(
            "metadata.annotations: Too long: may not be more than {ANNOTATIONS} bytes"
        )));
    }
    Ok(())
}

/// Merges a patch as RFC 7386 has it.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// The object, or its metadata alone if that was asked for.
pub(super) fn as_asked(accept: &str, object: Value) -> Value {
    if !wants_metadata(accept) || object["kind"] == "Status" {
        return object;
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

pub(super) fn wants_metadata(accept: &str) -> bool {
    accept.contains("as=PartialObjectMetadata")
}

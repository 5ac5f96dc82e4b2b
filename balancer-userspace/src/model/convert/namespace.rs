//! Namespaces, of which the metadata is all that counts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{MAX_LABEL, Skip, is_name, own_annotations};
use crate::model::{NamespaceSpec, annotations, problems::Problems};

/// Reads the metadata of a Namespace.
///
/// # Errors
/// [`Skip`] if it cannot even be named; all other mistakes stand in [`NamespaceSpec::problems`].
pub fn namespace_spec(metadata: &ObjectMeta) -> Result<NamespaceSpec, Skip> {
    let name = metadata.name.as_deref().unwrap_or_default();
    if !is_name(name, MAX_LABEL) {
        return Err(Skip::Name(name.to_owned()));
    }
    let (annotations, surplus) = own_annotations(metadata);
    let (enabled, errors) = annotations::parse_namespace(annotations.iter().copied());
    let mut problems = Problems::default();
    problems.extend(errors);
    if surplus > 0 {
        problems.add(format_args!("{surplus} annotations {}… too many are ignored", annotations::PREFIX));
    }
    Ok(NamespaceSpec { name: name.into(), enabled, problems: problems.into_vec() })
}

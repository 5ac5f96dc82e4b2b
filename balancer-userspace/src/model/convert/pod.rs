//! Pods, of which the metadata is all that counts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{MAX_NAME, Skip, is_name, object_name, own_annotations};
use crate::model::{Mesh, PodSpec, annotations, problems::Problems};

/// Where the kubelet notes the hash of a static pod, which stands for the UID in the names of its cgroups.
const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// Reads the metadata of a Pod.
///
/// # Errors
/// [`Skip`] if it cannot be named or recognised; all other mistakes stand in [`PodSpec::problems`].
pub fn pod_spec(metadata: &ObjectMeta) -> Result<PodSpec, Skip> {
    let name = object_name(metadata, MAX_NAME)?;
    let all = metadata.annotations.as_ref();
    let mirror = all.and_then(|annotations| annotations.get(STATIC_POD));
    let uid = mirror.or(metadata.uid.as_ref()).map(String::as_str).unwrap_or_default();
    if !is_name(uid, MAX_NAME) {
        return Err(Skip::NoUid);
    }
    let (annotations, surplus) = own_annotations(metadata);
    let (enabled, errors) = annotations::parse_pod(annotations.iter().copied());
    let mut problems = Problems::default();
    problems.extend(errors);
    if surplus > 0 {
        problems.add(format_args!("{surplus} annotations {}… too many are ignored", annotations::PREFIX));
    }
    Ok(PodSpec {
        name,
        uid: uid.into(),
        enabled,
        mesh: all.and_then(Mesh::of),
        problems: problems.into_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Participation;

    fn metadata(uid: &str, annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ObjectMeta {
            name: Some("web-1".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: (!uid.is_empty()).then(|| uid.to_owned()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_pod_is_what_its_metadata_says() {
        let pod = pod_spec(&metadata("u-1", &[("balancer.dev/enabled", "false")])).unwrap();
        assert_eq!((pod.name.to_string().as_str(), &*pod.uid), ("shop/web-1", "u-1"));
        assert_eq!((pod.enabled, pod.mesh), (Some(Participation::OptedOut), None));
        let pod =
            pod_spec(&metadata("u-1", &[("linkerd.io/proxy-version", "2"), (STATIC_POD, "hash")])).unwrap();
        assert_eq!((&*pod.uid, pod.mesh), ("hash", Some(Mesh::Linkerd)));
        let pod = pod_spec(&metadata("u-1", &[("balancer.dev/enabled", "no")])).unwrap();
        assert_eq!((pod.enabled, pod.problems.len()), (None, 1));
        assert_eq!(pod_spec(&metadata("", &[])), Err(Skip::NoUid));
    }
}

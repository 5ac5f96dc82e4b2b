//! Label and field selectors.

use serde_json::Value;

use super::answer::Denied;

/// Which objects a request is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    labels: Vec<(String, Wants)>,
    fields: Vec<(String, Wants)>,
}

#[derive(Clone, Debug)]
enum Wants {
    Exists,
    Absent,
    Is(String),
    IsNot(String),
}

impl Selectors {
    /// From the query of a request. Sets (`in`, `notin`) are not known here, and refused.
    pub(super) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Denied> {
        Ok(Self { labels: parse(labels.unwrap_or_default())?, fields: parse(fields.unwrap_or_default())? })
    }

    pub(super) fn match_object(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"][name].as_str();
        let field = |path: &str| path.split('.').fold(object, |value, part| &value[part]).as_str();
        self.labels.iter().all(|(name, wants)| wants.accept(label(name)))
            && self.fields.iter().all(|(path, wants)| wants.accept(field(path)))
    }
}

impl Wants {
    fn accept(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Is(wanted) => value == Some(wanted),
            Self::IsNot(unwanted) => value != Some(unwanted),
        }
    }
}

fn parse(text: &str) -> Result<Vec<(String, Wants)>, Denied> {
    let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
    terms
        .map(|term| {
            if term.contains([' ', '(']) {
                return Err(Denied::new(400, "BadRequest", &format!("unable to parse requirement: {term}")));
            }
            Ok(if let Some((name, value)) = term.split_once("!=") {
                (name.to_owned(), Wants::IsNot(value.to_owned()))
            } else if let Some((name, value)) = term.split_once('=') {
                (name.to_owned(), Wants::Is(value.trim_start_matches('=').to_owned()))
            } else if let Some(name) = term.strip_prefix('!') {
                (name.to_owned(), Wants::Absent)
            } else {
                (term.to_owned(), Wants::Exists)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn terms_are_joined_by_and() {
        let object = json!({"metadata": {"name": "x", "labels": {"a": "1", "b/c": ""}}});
        let matches = |labels: &str, fields: &str| {
            Selectors::parse(Some(labels), Some(fields)).unwrap().match_object(&object)
        };
        for (labels, fields, expected) in [
            ("", "", true),
            ("a", "", true),
            ("!a", "", false),
            ("!z,b/c", "", true),
            ("a=1", "", true),
            ("a==2", "", false),
            ("z!=1", "", true),
            ("", "metadata.name=x", true),
            ("", "metadata.name=y", false),
        ] {
            assert_eq!(matches(labels, fields), expected, "{labels} {fields}");
        }
        assert!(Selectors::parse(Some("a in (1,2)"), None).is_err());
    }
}

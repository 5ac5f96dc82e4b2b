//! What is asked for: path, query and verb of a request.

use std::{collections::HashMap, sync::Arc};

use hyper::Method;

use super::store::{Key, Resource};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// All objects.
    List,
    /// Changes.
    Watch,
    /// A new object.
    Create,
    /// Another object in its place.
    Update,
    /// A part of it.
    Patch,
    /// Away with it.
    Delete,
}

impl Verb {
    /// As RBAC calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// A request about objects.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub verb: Verb,
    pub group: String,
    /// As in the path, with the subresource: `serviceaccounts/token`.
    pub plural: String,
    /// Plural and group.
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
    pub query: HashMap<String, String>,
}

impl Asked {
    /// `None` for a path that is not one of objects.
    pub(super) fn parse(method: &Method, path: &str, query: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let _version = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        let (namespace, plural, name, sub) = match *rest.as_slice() {
            ["namespaces", namespace, plural] => (namespace, plural, "", ""),
            ["namespaces", namespace, plural, name] => (namespace, plural, name, ""),
            ["namespaces", namespace, plural, name, sub] => (namespace, plural, name, sub),
            [plural] => ("", plural, "", ""),
            [plural, name] => ("", plural, name, ""),
            _ => return None,
        };
        let query = parse_query(query);
        let is_watch = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
        let verb = match (method, name) {
            (&Method::GET, "") if is_watch => Verb::Watch,
            (&Method::GET, "") => Verb::List,
            (&Method::GET, _) => Verb::Get,
            (&Method::POST, _) => Verb::Create,
            (&Method::PUT, _) => Verb::Update,
            (&Method::PATCH, _) => Verb::Patch,
            (&Method::DELETE, _) => Verb::Delete,
            _ => return None,
        };
        let resource: Arc<str> =
            if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() };
        let plural = if sub.is_empty() { plural.to_owned() } else { format!("{plural}/{sub}") };
        Some(Self {
            verb,
            group,
            plural,
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            query,
        })
    }

    pub(super) fn key(&self) -> Key {
        Key { resource: self.resource.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// A parameter; an empty one is none.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.parameter(name)?.parse().ok()
    }
}

fn parse_query(query: &str) -> HashMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect()
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_the_api_server_does() {
        let asked = |method: Method, path: &str, query: &str| Asked::parse(&method, path, query).unwrap();
        let watch = asked(Method::GET, "/api/v1/services", "watch=1&labelSelector=%21a%2Fb&x=a+b");
        assert_eq!((watch.verb, &*watch.resource), (Verb::Watch, "services"));
        assert_eq!((watch.parameter("labelSelector"), watch.parameter("x")), (Some("!a/b"), Some("a b")));
        let one = asked(Method::GET, "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices/s", "");
        assert_eq!((one.verb, &*one.resource), (Verb::Get, "endpointslices.discovery.k8s.io"));
        assert_eq!((one.namespace.as_str(), one.name.as_str()), ("n", "s"));
        let namespace = asked(Method::DELETE, "/api/v1/namespaces/n", "");
        assert_eq!((&*namespace.resource, namespace.name.as_str()), ("namespaces", "n"));
        let token = asked(Method::POST, "/api/v1/namespaces/n/serviceaccounts/s/token", "");
        assert_eq!((token.plural.as_str(), token.name.as_str()), ("serviceaccounts/token", "s"));
        assert!(Asked::parse(&Method::GET, "/readyz", "").is_none());
    }
}

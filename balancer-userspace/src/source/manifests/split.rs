//! Cutting a YAML stream into documents.
//!
//! Each document is parsed on its own, so that one that is malformed does not take the others along
//! and one that did not change need not be parsed again.

use std::fmt;

use serde::{Deserialize, de::IgnoredAny};

/// One document that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Counted from 1, without empty documents.
    pub number: usize,
    /// Line of the file that `text` begins on, counted from 1.
    pub line: usize,
    /// Its text, without the markers around it.
    pub text: &'a str,
    /// What it is written in.
    pub format: Format,
}

/// What a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// YAML, of which JSON is a part.
    Yaml,
    /// JSON and nothing else.
    Json,
}

/// The values of a stream of JSON.
///
/// What follows a syntax error cannot be told apart and is one document, which will not parse.
pub(super) fn json_documents(stream: &str) -> Vec<Document<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(ahead) = stream[at..].find(|c: char| !c.is_ascii_whitespace()) {
        line += newlines(&stream[at..at + ahead]);
        at += ahead;
        let mut values = serde_json::Deserializer::from_str(&stream[at..]).into_iter::<IgnoredAny>();
        let length = match values.next() {
            Some(Ok(_)) => values.byte_offset(),
            Some(Err(_)) | None => stream.len() - at,
        };
        let text = &stream[at..at + length];
        found.push(Document { number: found.len() + 1, line, text, format: Format::Json });
        line += newlines(text);
        at += length;
    }
    found
}

/// Line ends in `text`.
pub(super) fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// The documents of a stream.
///
/// `---` and `...` at the start of a line, followed by white space or the end of the line, are markers
/// wherever they stand (YAML 1.2.2, 9.1: not even a block scalar may contain one). Documents that hold
/// nothing but comments, directives and white space are left out.
pub(super) fn documents(stream: &str) -> Vec<Document<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in stream.split_inclusive('\n').enumerate() {
        if let Some(marker) = marker(line) {
            push(&mut found, &stream[start..at], start_line);
            // What follows a marker on its line belongs to the next document.
            start = at + marker;
            start_line = index + 1;
        }
        at += line.len();
    }
    push(&mut found, &stream[start..], start_line);
    found
}

fn marker(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(3)
}

fn push<'a>(found: &mut Vec<Document<'a>>, text: &'a str, line: usize) {
    if text.lines().all(|line| {
        let content = line.trim_start();
        content.is_empty() || content.starts_with('#') || line.starts_with('%')
    }) {
        return;
    }
    found.push(Document { number: found.len() + 1, line, text, format: Format::Yaml });
}

/// `apiVersion` and `kind` of an object; empty where absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TypeMeta {
    pub api_version: String,
    pub kind: String,
}

impl TypeMeta {
    pub(super) fn is_complete(&self) -> bool {
        !self.kind.is_empty() && !self.api_version.is_empty()
    }
}

impl fmt::Display for TypeMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

/// Finds the type of a block-style document without parsing it; `None` where that takes a parser.
///
/// Exact where it answers: in a document whose root is a block mapping, nothing but a key of that
/// mapping can start in the first column.
pub(super) fn sniff(text: &str) -> Option<TypeMeta> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
    if !first.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let (mut api_version, mut kind) = (None, None);
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("apiVersion:") {
            api_version = Some(plain(value)?);
        } else if let Some(value) = line.strip_prefix("kind:") {
            kind = Some(plain(value)?);
        }
        if let (Some(api_version), Some(kind)) = (api_version, kind) {
            return Some(TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() });
        }
    }
    None
}

/// A scalar without anything that needs a parser.
fn plain(value: &str) -> Option<&str> {
    let value = value.split_once(" #").map_or(value, |(value, _)| value);
    let value = value.strip_prefix([' ', '\t'])?.trim();
    let value = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value);
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '-');
    (!value.is_empty() && value.chars().all(simple)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_numbered_and_know_their_line() {
        let stream =
            "%YAML 1.2\n---\n# only a comment\n---\na: 1\n--- # two\nb: |\n  x --- y\n ---\n...\n\n---\nc: 3";
        let found = documents(stream);
        let brief: Vec<_> = found.iter().map(|d| (d.number, d.line, d.text.trim())).collect();
        assert_eq!(brief, [(1, 4, "a: 1"), (2, 6, "# two\nb: |\n  x --- y\n ---"), (3, 12, "c: 3")]);
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark() {
        let found = documents("\u{feff}a: 1\r\n---\r\nb: 2\r\n");
        assert_eq!(found.iter().map(|d| d.text.trim()).collect::<Vec<_>>(), ["a: 1", "b: 2"]);
    }

    #[test]
    fn longer_dashes_are_content() {
        assert_eq!(documents("----\n").len(), 1);
        assert!(documents("# nothing\n\n---\n").is_empty());
    }

    #[test]
    fn json_values_follow_one_another() {
        let found = json_documents("{\"a\": 1}\n\n{\"b\":\n 2} {\"c\" 3}\n{}\n");
        let brief: Vec<_> = found.iter().map(|d| (d.number, d.line, d.text)).collect();
        assert_eq!(brief, [(1, 1, "{\"a\": 1}"), (2, 3, "{\"b\":\n 2}"), (3, 4, "{\"c\" 3}\n{}\n")]);
        assert!(json_documents(" \n").is_empty());
    }

    #[test]
    fn types_are_found_or_left_to_the_parser() {
        let is = |text: &str| sniff(text).map(|t| format!("{} {}", t.api_version, t.kind));
        assert_eq!(
            is("# c\nkind: Service # x\nspec: {}\napiVersion: \"v1\"\n").as_deref(),
            Some("v1 Service")
        );
        assert_eq!(is("apiVersion: apps/v1\r\nkind: Deployment\r\n").as_deref(), Some("apps/v1 Deployment"));
        for unclear in [
            "{kind: Service, apiVersion: v1}",
            "kind: Service\n",
            "kind: &a Service\napiVersion: v1\n",
            "metadata:\n  kind: Service\n  apiVersion: v1\n",
            "\"kind\": Service\napiVersion: v1\n",
            "- kind: Service\n",
        ] {
            assert_eq!(is(unclear), None, "{unclear}");
        }
    }
}

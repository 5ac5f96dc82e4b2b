//! One object's text in any of the forms that it comes in, and errors that know their line.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use serde_saphyr::{Options, Spanned, UserMessageFormatter};

use super::{
    parse::Fault,
    split::{Document, Format, TypeMeta, newlines, sniff},
};

/// An object that was not deserialised yet.
pub(super) enum Text<'a> {
    /// A YAML document.
    Yaml { line: usize, text: &'a str },
    /// A JSON value.
    Json { line: usize, text: &'a str },
    /// An item of a YAML list, where types were lost but the line was not.
    Item { line: Option<usize>, value: Value },
}

impl<'a> Text<'a> {
    /// JSON where it is JSON, else YAML.
    pub(super) fn of(document: &Document<'a>) -> Self {
        let Document { line, text, format, .. } = *document;
        match format {
            Format::Json => Self::Json { line, text },
            Format::Yaml
                if text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() =>
            {
                Self::Json { line, text }
            }
            Format::Yaml => Self::Yaml { line, text },
        }
    }

    /// The line of the file that it begins on.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::Yaml { line, text } | Self::Json { line, text } => {
                // Comments and empty lines ahead of an object are no part of it.
                let ahead = text.lines().take_while(|line| {
                    let content = line.trim_start();
                    content.is_empty() || content.starts_with('#')
                });
                Some(line + ahead.count())
            }
            Self::Item { line, .. } => *line,
        }
    }

    /// Its type.
    pub(super) fn head(&self) -> Result<TypeMeta, Fault> {
        if let Self::Yaml { text, .. } = self
            && let Some(head) = sniff(text)
        {
            return Ok(head);
        }
        self.read()
    }

    /// The object.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        match self {
            Self::Yaml { line, text } => serde_saphyr::from_str_with_options(text, options(text))
                .map_err(|error| yaml_fault(&error, *line)),
            Self::Json { line, text } => {
                serde_json::from_str(text).map_err(|error| json_fault(&error, *line))
            }
            Self::Item { line, value } => T::deserialize(value).map_err(|error| Fault {
                line: *line,
                object: value_name(value),
                why: error.to_string(),
            }),
        }
    }

    /// Calls `each` for every item of a list, in order, and holds one item at a time.
    ///
    /// After an error, the items before it have been seen.
    pub(super) fn for_each_item(&self, each: &mut dyn FnMut(Text<'_>)) -> Result<(), Fault> {
        match self {
            Self::Yaml { line, text } => {
                let base = *line;
                let mut each = |item: Spanned<Value>| {
                    let line = usize::try_from(item.referenced.line()).ok().filter(|line| *line > 0);
                    each(Text::Item { line: line.map(|line| base + line - 1), value: item.value });
                };
                serde_saphyr::with_deserializer_from_str_with_options(text, options(text), |deserializer| {
                    deserializer.deserialize_map(List(&mut each, PhantomData))
                })
                .map_err(|error| yaml_fault(&error, *line))
            }
            Self::Json { line, text } => {
                let (mut line_of_item, mut counted) = (*line, 0);
                let mut each = |item: &'a RawValue| {
                    // The item is a slice of `text`.
                    let at = item.get().as_ptr() as usize - text.as_ptr() as usize;
                    line_of_item += newlines(&text[counted..at]);
                    counted = at;
                    each(Text::Json { line: line_of_item, text: item.get() });
                };
                let mut deserializer = serde_json::Deserializer::from_str(text);
                deserializer
                    .deserialize_map(List(&mut each, PhantomData))
                    .map_err(|error| json_fault(&error, *line))
            }
            Self::Item { line, .. } => {
                Err(Fault { line: *line, object: None, why: "a list inside a list is not read".to_owned() })
            }
        }
    }
}

/// Nothing in a valid file of any size may hit a limit; what aliases expand to stays limited, and so does depth.
fn options(text: &str) -> Options {
    let events = text.len().saturating_mul(2).max(1_000_000);
    serde_saphyr::options! {
        with_snippet: false,
        emit_comments: false,
        budget: serde_saphyr::budget! { max_events: events, max_nodes: events },
    }
}

fn yaml_fault(error: &serde_saphyr::Error, base: usize) -> Fault {
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
    let text = error.render_with_formatter(&UserMessageFormatter);
    fault(&text, line, base)
}

fn json_fault(error: &serde_json::Error, base: usize) -> Fault {
    fault(&error.to_string(), Some(error.line()), base)
}

/// The position in the text of an error is one of the document; ours is one of the file.
fn fault(text: &str, line: Option<usize>, base: usize) -> Fault {
    let why = text.split_once(" at line ").map_or(text, |(why, _)| why).to_owned();
    Fault { line: line.filter(|line| *line > 0).map(|line| base + line - 1), object: None, why }
}

fn value_name(value: &Value) -> Option<String> {
    let kind = value.get("kind")?.as_str()?;
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
    Some(format!("{kind} {namespace}/{}", metadata.get("name")?.as_str()?))
}

/// Visits the items of a list object without collecting them.
struct List<'f, T>(&'f mut dyn FnMut(T), PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut *self.0, PhantomData))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Items<'f, T>(&'f mut dyn FnMut(T), PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Items<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item);
        }
        Ok(())
    }
}

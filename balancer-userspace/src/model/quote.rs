//! Text that users wrote, made safe to put in a message.

use std::fmt;

/// The most characters of the original that a quotation shows.
const LIMIT: usize = 40;

/// Shows `text` between quotation marks: cut after 40 characters, control characters escaped.
///
/// Everything that an API object holds and a message repeats goes through here, so that nobody can fill
/// the log or forge its lines, or move a terminal's cursor, by way of an annotation.
pub fn quote(text: &str) -> impl fmt::Display {
    Quoted(text)
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.0.char_indices().nth(LIMIT).map(|(index, _)| index);
        let shown = cut.map_or(self.0, |end| &self.0[..end]);
        let more = if cut.is_some() { "…" } else { "" };
        write!(f, "\"{}{more}\"", shown.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(quote(text).to_string(), expect);
    }

    #[test]
    fn a_quotation_is_short_and_inert() {
        check("", "\"\"");
        check("fastest", "\"fastest\"");
        check("a\"b\\\n\u{1b}[2J", "\"a\\\"b\\\\\\n\\u{1b}[2J\"");
        check("\u{202e}evil", "\"\\u{202e}evil\"");
        check(&"x".repeat(40), &format!("\"{}\"", "x".repeat(40)));
        check(&"é".repeat(100_000), &format!("\"{}…\"", "é".repeat(40)));
    }
}

//! Colours, and text that is safe to show.

use std::{borrow::Cow, ffi::OsString, fmt::Write as _};

use clap::ValueEnum;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Settles the choice for an output, by <https://no-color.org>.
    pub fn palette(self, output: Output) -> Palette {
        self.palette_in(output, |name| std::env::var_os(name))
    }

    fn palette_in(self, output: Output, variable: impl Fn(&str) -> Option<OsString>) -> Palette {
        let unwanted = || {
            variable("NO_COLOR").is_some_and(|value| !value.is_empty())
                || variable("TERM").is_some_and(|value| value == "dumb")
        };
        match (self, output) {
            (Self::Always, _) => Palette::Colour,
            (Self::Auto, Output::Terminal) if !unwanted() => Palette::Colour,
            (Self::Auto, _) | (Self::Never, _) => Palette::Plain,
        }
    }
}

/// What an output stream leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A terminal.
    Terminal,
    /// A file, a pipe or anything else.
    Other,
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// It is not.
    Plain,
    /// It is, with the terminal's own eight colours.
    Colour,
}

/// A meaning that has a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ink {
    /// Ordinary text.
    #[default]
    Plain,
    /// Titles.
    Bold,
    /// Less important.
    Dim,
    /// All is well.
    Good,
    /// Wants attention.
    Warn,
    /// Bad.
    Bad,
}

impl Ink {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
        }
    }
}

impl Palette {
    /// Appends `text` in `ink`.
    pub fn paint(self, out: &mut String, ink: Ink, text: &str) {
        if self == Self::Plain || ink == Ink::Plain || text.is_empty() {
            out.push_str(text);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "\x1b[{}m{text}\x1b[0m", ink.code());
        }
    }

    /// `text` in `ink`.
    pub fn painted(self, ink: Ink, text: &str) -> String {
        let mut out = String::new();
        self.paint(&mut out, ink, text);
        out
    }
}

/// Makes text from elsewhere safe for a terminal and for one line: control characters, and those that reorder
/// text, are escaped. Process names and what stands in a manifest are anybody's to choose.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_cannot_drive_the_terminal() {
        assert_eq!(safe("web-1"), "web-1");
        assert_eq!(safe("größe"), "größe");
        assert_eq!(safe("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(safe("\u{202e}x\u{9b}"), "\\u{202e}x\\u{9b}");
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let check = |choice: ColorChoice, output, set: &[(&str, &str)], expect| {
            let variable =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            assert_eq!(choice.palette_in(output, variable), expect, "{choice:?} {output:?} {set:?}");
        };
        check(ColorChoice::Auto, Output::Terminal, &[], Palette::Colour);
        check(ColorChoice::Auto, Output::Terminal, &[("NO_COLOR", "")], Palette::Colour);
        check(ColorChoice::Auto, Output::Terminal, &[("NO_COLOR", "1")], Palette::Plain);
        check(ColorChoice::Auto, Output::Terminal, &[("TERM", "dumb")], Palette::Plain);
        check(ColorChoice::Auto, Output::Other, &[("TERM", "xterm")], Palette::Plain);
        check(ColorChoice::Always, Output::Other, &[("NO_COLOR", "1")], Palette::Colour);
        check(ColorChoice::Never, Output::Terminal, &[], Palette::Plain);
    }

    #[test]
    fn ink_shows_only_in_colour() {
        assert_eq!(Palette::Plain.painted(Ink::Bad, "x"), "x");
        assert_eq!(Palette::Colour.painted(Ink::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Palette::Colour.painted(Ink::Plain, "x"), "x");
    }
}

//! What the audience sees.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program is there to print")]

use std::io::{IsTerminal as _, stdout};

/// Standard output: a terminal, where a live view is drawn over itself, or anything else, where each view is printed once.
pub struct Screen {
    terminal: bool,
    /// Lines of the live view that is on the terminal now.
    drawn: usize,
}

impl Screen {
    /// What standard output leads to.
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0 }
    }

    /// Whether views are drawn over each other, in colour.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Begins a chapter.
    pub fn title(&mut self, text: &str) {
        self.drawn = 0;
        if self.terminal { println!("\n\x1b[1m== {text}\x1b[0m") } else { println!("\n== {text}") }
    }

    /// A paragraph.
    pub fn say(&mut self, text: &str) {
        self.drawn = 0;
        println!("{text}");
    }

    /// The next state of a live view, in place of the one before.
    pub fn live(&mut self, view: &str) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        println!("{}", view.trim_end());
        self.drawn = if self.terminal { view.trim_end().lines().count() } else { 0 };
    }

    /// An error.
    pub fn complain(&mut self, text: &str) {
        self.drawn = 0;
        eprintln!("{text}");
    }
}

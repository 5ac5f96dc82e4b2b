//! What the audience sees.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program is there to print")]

use std::io::{IsTerminal as _, stdout};

/// Standard output. On a terminal a live view is drawn over itself; elsewhere only its last state is printed.
pub struct Screen {
    terminal: bool,
    /// Lines of the live view that is on the terminal now.
    drawn: usize,
    /// The state of the live view that is not printed yet.
    latest: Option<String>,
}

impl Screen {
    /// What standard output leads to.
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0, latest: None }
    }

    /// Whether views are drawn over each other, in colour.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Begins a chapter.
    pub fn title(&mut self, text: &str) {
        self.settle();
        if self.terminal { println!("\n\x1b[1m== {text}\x1b[0m") } else { println!("\n== {text}") }
    }

    /// A paragraph.
    pub fn say(&mut self, text: &str) {
        self.settle();
        println!("{text}");
    }

    /// The next state of a live view, in place of the one before.
    pub fn live(&mut self, view: &str) {
        let view = view.trim_end();
        if !self.terminal {
            self.latest = Some(view.to_owned());
            return;
        }
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        // Without wrapping, so that a line of text is a line on the screen.
        println!("\x1b[?7l{view}\x1b[?7h");
        self.drawn = view.lines().count();
    }

    /// An error.
    pub fn complain(&mut self, text: &str) {
        self.settle();
        eprintln!("{text}");
    }

    /// Ends a live view: what comes next comes below.
    fn settle(&mut self) {
        self.drawn = 0;
        if let Some(view) = self.latest.take() {
            println!("{view}");
        }
    }
}

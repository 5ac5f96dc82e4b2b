//! `--watch`: the same output again and again.

use std::{num::NonZeroU64, time::Duration};

use clap::Args;

use super::{context::Context, exit::Failure, term::Output, values};

/// The flags of commands that can watch.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WatchArgs {
    /// Refresh every SECONDS (2 if not given) until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = values::interval)]
    watch: Option<Duration>,

    /// Stop after N refreshes
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<NonZeroU64>,
}

/// One output among many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The only one.
    Single,
    /// One of many; the first has the number 0.
    Watched {
        /// Which.
        number: u64,
        /// Time between two.
        interval: Duration,
    },
}

impl WatchArgs {
    /// Calls `show` once, or again and again. `show` returns what to print.
    pub fn run(
        self,
        context: &mut Context<'_>,
        mut show: impl FnMut(&mut Context<'_>, Frame) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let Some(interval) = self.watch else {
            let text = show(context, Frame::Single)?;
            return context.print(&text);
        };
        for number in 0.. {
            let text = show(context, Frame::Watched { number, interval })?;
            let text = match context.stdout_kind() {
                Output::Terminal => redraw(&text, number, screen_lines()),
                Output::Other => text,
            };
            context.print(&text)?;
            if self.count.is_some_and(|count| number + 1 >= count.get()) {
                break;
            }
            std::thread::sleep(interval);
        }
        Ok(())
    }
}

/// The height of the terminal; `None` where it will not say.
fn screen_lines() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 1).then_some(size.ws_row.into())
}

/// The width of the terminal; `None` where it will not say.
pub fn screen_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 1).then_some(size.ws_col.into())
}

/// Writes over the frame before, without a flicker. What does not fit on the screen is cut, and said to be.
fn redraw(text: &str, number: u64, height: Option<usize>) -> String {
    let mut out = String::from(if number == 0 { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    let lines: Vec<&str> = text.lines().collect();
    let fitting = match height {
        Some(height) if lines.len() >= height => height.saturating_sub(2),
        _ => lines.len(),
    };
    for line in &lines[..fitting] {
        out.push_str(line);
        out.push_str("\x1b[K\n");
    }
    if fitting < lines.len() {
        out.push_str(&format!("({} more lines; name a Service to see less)\x1b[K\n", lines.len() - fitting));
    }
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_one_before() {
        assert_eq!(redraw("a\nb\n", 0, None), "\x1b[2J\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(redraw("a\n", 1, Some(24)), "\x1b[Ha\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = redraw("1\n2\n3\n4\n5\n", 3, Some(4));
        assert_eq!(text, "\x1b[H1\x1b[K\n2\x1b[K\n(3 more lines; name a Service to see less)\x1b[K\n\x1b[J");
        assert!(redraw("1\n2\n3\n", 3, Some(4)).contains('3'));
    }
}

//! Lines of standard input that can be waited for, for programs that do something until they are told otherwise.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Lines from a pipe. What was read together with an earlier line is still waiting: [`std::io::Stdin`] has it in a buffer that
/// poll() does not know, and that it shows to nobody.
pub struct Input(BufReader<File>);

impl Input {
    /// Of standard input. Nobody else may read from it.
    ///
    /// # Errors
    ///
    /// When its descriptor cannot be duplicated.
    pub fn of_stdin() -> io::Result<Self> {
        Self::of(io::stdin())
    }

    fn of(pipe: impl AsFd) -> io::Result<Self> {
        Ok(Self(BufReader::new(pipe.as_fd().try_clone_to_owned()?.into())))
    }

    /// Whether a line, or the end, is there within this time; without one it waits until it is so. A signal makes it look
    /// again, so that it may wait longer.
    ///
    /// # Errors
    ///
    /// Those of poll().
    pub fn wait(&mut self, patience: Option<Duration>) -> io::Result<bool> {
        if !self.0.buffer().is_empty() {
            return Ok(true);
        }
        let timeout = patience.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(self.0.get_ref(), PollFlags::IN)], timeout.as_ref()) {
                Err(Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }

    /// The next line, however long that takes; none at the end.
    ///
    /// # Errors
    ///
    /// Those of read(), and text that is not UTF-8.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.0.read_line(&mut line)? > 0).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_that_were_written_at_once_are_waiting_one_after_the_other() {
        let (from, mut to) = io::pipe().unwrap();
        let mut input = Input::of(from).unwrap();
        assert!(!input.wait(Some(Duration::ZERO)).unwrap());
        to.write_all(b"go\npause\n").unwrap();
        for line in ["go\n", "pause\n"] {
            assert!(input.wait(Some(Duration::ZERO)).unwrap(), "{line}");
            assert_eq!(input.next_line().unwrap().unwrap(), line);
        }
        assert!(!input.wait(Some(Duration::ZERO)).unwrap());
        drop(to);
        assert!(input.wait(None).unwrap());
        assert_eq!(input.next_line().unwrap(), None);
    }
}

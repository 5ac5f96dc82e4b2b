//! What a child process writes, line by line, with the time at which it arrived.
//!
//! The time is taken here and not by the writers: they are in five languages, and no two need the same clock then.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

/// Lines, each with the time at which it arrived.
pub type Stamped = Vec<(Instant, String)>;

/// The lines so far. A thread reads on until the pipe ends.
#[derive(Debug)]
pub struct Lines {
    read: Arc<Mutex<Stamped>>,
    reader: JoinHandle<()>,
}

impl Lines {
    /// Begins to read.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let read = Arc::<Mutex<Stamped>>::default();
        let into = Arc::clone(&read);
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            // A pipe that cannot be read has ended.
            while pipe.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                lock(&into).push((Instant::now(), line));
                bytes.clear();
            }
        });
        Self { read, reader }
    }

    /// How many of them begin with this.
    pub fn count(&self, start: &str) -> usize {
        lock(&self.read).iter().filter(|(_, line)| line.starts_with(start)).count()
    }

    /// The last ones, joined.
    pub fn tail(&self, count: usize) -> String {
        let lines = lock(&self.read);
        let last = &lines[lines.len().saturating_sub(count)..];
        last.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// All lines, once the writer has ended.
    pub fn finish(self) -> Stamped {
        if let Err(panic) = self.reader.join() {
            std::panic::resume_unwind(panic);
        }
        std::mem::take(&mut *lock(&self.read))
    }
}

/// The reader only pushes: what it has pushed is whole even if it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_needs_no_end() {
        let lines = Lines::of(&b"listening\n1-0\r\n1-1"[..]);
        let all: Vec<_> = lines.finish().into_iter().map(|(_, line)| line).collect();
        assert_eq!(all, ["listening", "1-0", "1-1"]);
    }
}

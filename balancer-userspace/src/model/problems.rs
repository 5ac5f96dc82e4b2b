//! A bounded list of what is wrong with one object.

use std::fmt;

/// The most problems that are named of one object; the rest are counted.
const LIMIT: usize = 8;

/// What is wrong with one object, in words: at most eight entries, then how many more there are.
///
/// An object may hold thousands of mistakes; what is kept of them does not grow with it.
#[derive(Debug, Default)]
pub(super) struct Problems {
    named: Vec<String>,
    more: usize,
}

impl Problems {
    /// Adds one. The text is not even made once the list is full.
    pub(super) fn add(&mut self, problem: impl fmt::Display) {
        if self.named.len() < LIMIT {
            self.named.push(problem.to_string());
        } else {
            self.more += 1;
        }
    }

    /// Adds one unless the same is named already.
    pub(super) fn add_once(&mut self, problem: impl fmt::Display) {
        let text = problem.to_string();
        if !self.named.contains(&text) {
            self.add(text);
        }
    }

    /// The list, for keeping.
    pub(super) fn into_vec(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more", self.more));
        }
        self.named.shrink_to_fit();
        self.named
    }
}

impl<T: fmt::Display> Extend<T> for Problems {
    fn extend<I: IntoIterator<Item = T>>(&mut self, problems: I) {
        for problem in problems {
            self.add(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut problems = Problems::default();
        problems.extend(1..=10);
        problems.add_once(1);
        let list = problems.into_vec();
        assert_eq!(list.len(), 9);
        assert_eq!((list[0].as_str(), list[8].as_str()), ("1", "and 2 more"));
    }
}

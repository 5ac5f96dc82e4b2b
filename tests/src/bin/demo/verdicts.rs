//! What is claimed, and whether it holds.

use std::fmt::Display;

/// Claims in the order in which they were judged.
#[derive(Default)]
pub struct Verdicts {
    claims: Vec<(Verdict, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
}

impl Verdicts {
    /// Judges: `seen` must equal `expected`. The claim's text must say the numbers of a run in which it holds.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, claim: impl Display, seen: T, expected: T) {
        if seen == expected {
            self.claims.push((Verdict::Holds, claim.to_string()));
        } else {
            self.claims
                .push((Verdict::Fails, format!("{claim}\n         expected {expected:?}, saw {seen:?}")));
        }
    }

    /// Whether there are claims and all of them hold.
    pub fn all_hold(&self) -> bool {
        !self.claims.is_empty() && self.claims.iter().all(|(verdict, _)| *verdict == Verdict::Holds)
    }

    /// A line for each.
    pub fn text(&self) -> String {
        let line = |(verdict, claim): &(Verdict, String)| {
            let mark = if *verdict == Verdict::Holds { "holds" } else { "FAILS" };
            format!("  {mark}  {claim}")
        };
        self.claims.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough() {
        let mut verdicts = Verdicts::default();
        assert!(!verdicts.all_hold(), "nothing was claimed");
        verdicts.equal("one is one", 1, 1);
        assert!(verdicts.all_hold());
        verdicts.equal("two is one", 2, 1);
        assert!(!verdicts.all_hold());
        assert_eq!(verdicts.text(), "  holds  one is one\n  FAILS  two is one\n         expected 1, saw 2");
    }
}

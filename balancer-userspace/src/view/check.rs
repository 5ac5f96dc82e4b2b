//! The findings of `balancer check` and what `balancer detach` did.

/// What `balancer check` found, in the order in which it looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// One entry for each thing looked at.
    pub items: Vec<CheckItem>,
}

impl CheckReport {
    /// The worst outcome; [`Outcome::Ok`] for an empty report.
    pub fn worst(&self) -> Outcome {
        self.items.iter().map(|item| item.outcome).max().unwrap_or(Outcome::Ok)
    }

    /// How many items ended with `outcome`.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.items.iter().filter(|item| item.outcome == outcome).count()
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckItem {
    /// What was looked at, in a word or three (`kernel`, `self-probe IPv4`).
    pub name: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

/// How a check went, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It could not be looked at; the detail says why.
    Skipped,
    /// Connects are balanced, but something wants attention.
    Warning,
    /// Connects are not balanced, or not as they should be.
    Failed,
}

/// What `balancer detach` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetachReport {
    /// Links and maps that are gone, by path.
    pub removed: Vec<String>,
    /// What was found beside ours and left alone, by path or description.
    pub kept: Vec<String>,
}

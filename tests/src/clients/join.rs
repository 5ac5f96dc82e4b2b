//! What the client was told, beside what the servers carried out.

use std::collections::HashMap;

use serde::Serialize;

use super::words::{End, Request};

/// How many examples of each harm are kept.
const EXAMPLES: usize = 20;

/// The requests of a row, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Handed to the library.
    pub requests: u64,
    /// Of these, the client saw an error, or never an end.
    pub errors: u64,
    /// Of the errors, a server had carried the request out all the same: whoever tries again does it twice.
    pub ambiguous: u64,
    /// Carried out more than once.
    pub twice: u64,
    /// Answered, and carried out by nobody.
    pub lost: u64,
    /// Carried out, and sent by nobody: the count itself cannot be trusted.
    pub strays: u64,
    /// Some of what went wrong.
    pub examples: Vec<Example>,
}

/// A request that was hurt.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Its id.
    pub id: String,
    /// What the client was told.
    pub told: String,
    /// How often it was carried out.
    pub executed: u64,
}

impl Tally {
    /// Joins what a client said with the ids that all servers together carried out, in any order.
    pub fn of<'i>(requests: &[Request], executed: impl IntoIterator<Item = &'i str>) -> Self {
        let mut times: HashMap<&str, u64> = HashMap::new();
        for id in executed {
            *times.entry(id).or_default() += 1;
        }
        let mut tally = Self::default();
        for request in requests {
            tally.add(request, times.remove(request.id.as_str()).unwrap_or(0));
        }
        tally.strays = times.values().sum();
        tally
    }

    fn add(&mut self, request: &Request, executed: u64) {
        let told = match &request.end {
            Some((_, End::Answered)) => Ok(()),
            Some((_, End::Failed(text))) => Err(text.as_str()),
            None => Err("nothing, until the client was ended"),
        };
        let (failed, done) = (told.is_err(), executed > 0);
        self.requests += 1;
        self.errors += u64::from(failed);
        self.ambiguous += u64::from(failed && done);
        self.twice += u64::from(executed > 1);
        self.lost += u64::from(!failed && !done);
        if (failed || executed != 1) && self.examples.len() < EXAMPLES {
            let told = told.err().unwrap_or("an answer").to_owned();
            self.examples.push(Example { id: request.id.clone(), told, executed });
        }
    }

    /// Whether no request was hurt, of those that there were.
    pub fn is_clean(&self) -> bool {
        self.requests > 0 && self.errors + self.twice + self.lost + self.strays == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn request(id: &str, end: Option<End>) -> Request {
        let now = Instant::now();
        Request { id: id.into(), sent: now, end: end.map(|end| (now, end)) }
    }

    fn counts(tally: &Tally) -> [u64; 6] {
        [tally.requests, tally.errors, tally.ambiguous, tally.twice, tally.lost, tally.strays]
    }

    /// One request; expected are errors, ambiguous, twice and lost.
    #[track_caller]
    fn check(end: Option<End>, executed: usize, expected: [u64; 4]) {
        let tally = Tally::of(&[request("0-0", end)], vec!["0-0"; executed]);
        let [_, errors, ambiguous, twice, lost, strays] = counts(&tally);
        assert_eq!([errors, ambiguous, twice, lost], expected);
        assert_eq!(strays, 0);
        assert_eq!(tally.is_clean(), expected == [0; 4]);
        assert_eq!(tally.examples.is_empty(), tally.is_clean());
    }

    #[test]
    fn every_end_meets_every_number_of_executions() {
        let failed = || Some(End::Failed("reset".into()));
        check(Some(End::Answered), 0, [0, 0, 0, 1]);
        check(Some(End::Answered), 1, [0, 0, 0, 0]);
        check(Some(End::Answered), 2, [0, 0, 1, 0]);
        check(failed(), 0, [1, 0, 0, 0]);
        check(failed(), 1, [1, 1, 0, 0]);
        check(failed(), 2, [1, 1, 1, 0]);
        check(None, 0, [1, 0, 0, 0]);
        check(None, 1, [1, 1, 0, 0]);
    }

    #[test]
    fn ids_are_joined_and_not_counted() {
        let requests = [request("0-0", Some(End::Answered)), request("0-1", Some(End::Answered))];
        let tally = Tally::of(&requests, ["0-0", "0-0"]);
        assert_eq!(counts(&tally), [2, 0, 0, 1, 1, 0]);
        assert_eq!(tally.examples.len(), 2);
    }

    #[test]
    fn what_nobody_sent_spoils_the_count() {
        let tally = Tally::of(&[request("0-0", Some(End::Answered))], ["9-9", "0-0", "9-9"]);
        assert_eq!(counts(&tally), [1, 0, 0, 0, 0, 2]);
        assert!(!tally.is_clean());
    }

    #[test]
    fn no_request_is_no_proof() {
        assert!(!Tally::of(&[], []).is_clean());
    }

    #[test]
    fn examples_are_few() {
        let requests: Vec<_> =
            (0..50).map(|n| request(&n.to_string(), Some(End::Failed("reset".into())))).collect();
        let tally = Tally::of(&requests, []);
        assert_eq!((tally.errors, tally.examples.len()), (50, EXAMPLES));
    }
}

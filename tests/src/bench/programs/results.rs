//! What comes of the measurements of the programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    super::numbers::Spread,
    Scenario,
    swap::{CHOICE, Counts, EMPTY, PROGRAMS, REAL, REAL_CHOICE, STATE},
};

/// A scenario.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was dialled, in which state of the tables and caches.
    pub scenario: &'static str,
    /// Nanoseconds for a run of the real `connect4`, less those of the empty program in the same round.
    pub real_ns: Spread,
    /// The same for the minimal program with the same record.
    pub state_ns: Spread,
    /// `real_ns / state_ns`, round by round.
    pub with_state: Spread,
    /// The same for the real decision, with nothing recorded.
    pub real_choice_ns: Spread,
    /// The same for the minimal look-ups and choice.
    pub choice_ns: Spread,
    /// `real_choice_ns / choice_ns`, round by round.
    pub choice: Spread,
}

/// What one of the real programs costs each connection, from connect() to the end of close().
#[derive(Debug, Serialize)]
pub struct Share {
    /// What was dialled.
    pub scenario: &'static str,
    /// Which program.
    pub program: String,
    /// How often it ran for each connection.
    pub runs: f64,
    /// Nanoseconds for each connection, less those of the empty program for as many runs.
    pub ns: Spread,
}

/// The cost with a large Service over that with a small one.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// How it was dialled.
    pub how: &'static str,
    /// Of the real program, round by round.
    pub real: Spread,
    /// Of the minimal program with the same record.
    pub minimal: Spread,
}

/// All of the results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Rounds measured.
    pub rounds: usize,
    /// Connects in each measurement with warm caches.
    pub runs: usize,
    /// What the empty program read with warm caches: already taken off.
    pub empty_ns: Spread,
    /// The same with cold caches.
    pub empty_cold_ns: Spread,
    /// By scenario.
    pub rows: Vec<Row>,
    /// 100,000 backends against 10.
    pub growth: Vec<Growth>,
    /// All real programs together, by scenario.
    pub shares: Vec<Share>,
}

/// Nanoseconds for a run: by program, scenario and round.
pub struct Samples {
    ns: Vec<Vec<Vec<f64>>>,
    shares: BTreeMap<(&'static str, String), Vec<(f64, f64)>>,
}

impl Samples {
    /// None yet.
    pub fn new(scenarios: usize) -> Self {
        Self { ns: vec![vec![Vec::new(); scenarios]; PROGRAMS.len()], shares: BTreeMap::new() }
    }

    /// Adds one.
    pub fn add(&mut self, program: usize, scenario: usize, ns: f64) {
        self.ns[program][scenario].push(ns);
    }

    /// Adds what all real programs counted while `connects` were made.
    pub fn add_shares(
        &mut self,
        scenario: &'static str,
        connects: usize,
        before: &BTreeMap<String, Counts>,
        after: &BTreeMap<String, Counts>,
    ) {
        for (name, &(runs, time)) in after {
            let (runs_before, time_before) = before.get(name).copied().unwrap_or_default();
            let runs = (runs - runs_before) as f64 / connects as f64;
            let ns = (time - time_before).as_nanos() as f64 / connects as f64;
            self.shares.entry((scenario, name.clone())).or_default().push((runs, ns));
        }
    }

    /// Puts it all in relation.
    pub fn evaluate(&self, scenarios: &[Scenario], rounds: usize, runs: usize) -> Results {
        let (warm, cold) = (self.empty(scenarios, false, rounds), self.empty(scenarios, true, rounds));
        let net = |program: &str, index: usize| -> Vec<f64> {
            let empty = if scenarios[index].is_cold() { &cold } else { &warm };
            let program = PROGRAMS.iter().position(|&name| name == program).unwrap_or_default();
            self.ns[program][index].iter().zip(empty).map(|(ns, empty)| ns - empty).collect()
        };
        let spread = |program: &str, index: usize| Spread::of(net(program, index));
        let ratio = |a: &str, b: &str, index: usize| Spread::of_ratios(&net(a, index), &net(b, index));
        let rows = scenarios.iter().enumerate().map(|(index, scenario)| Row {
            scenario: scenario.name,
            real_ns: spread(REAL, index),
            state_ns: spread(STATE, index),
            with_state: ratio(REAL, STATE, index),
            real_choice_ns: spread(REAL_CHOICE, index),
            choice_ns: spread(CHOICE, index),
            choice: ratio(REAL_CHOICE, CHOICE, index),
        });
        let find = |name: &str| scenarios.iter().position(|scenario| scenario.name == name);
        let growth = super::GROWTH.iter().filter_map(|&(how, many, few)| {
            let (many, few) = (find(many)?, find(few)?);
            let growth = |program| Spread::of_ratios(&net(program, many), &net(program, few));
            Some(Growth { how, real: growth(REAL), minimal: growth(STATE) })
        });
        Results {
            rounds,
            runs,
            empty_ns: Spread::of(warm.iter().copied()),
            empty_cold_ns: Spread::of(cold.iter().copied()),
            rows: rows.collect(),
            growth: growth.collect(),
            shares: self.shares(&warm),
        }
    }

    /// The empty program, round by round. It does not look at what is dialled: the scenarios differ by
    /// the caches alone.
    fn empty(&self, scenarios: &[Scenario], cold: bool, rounds: usize) -> Vec<f64> {
        let program = PROGRAMS.iter().position(|&name| name == EMPTY).unwrap_or_default();
        (0..rounds)
            .map(|round| {
                let same = scenarios.iter().zip(&self.ns[program]).filter(|(s, _)| s.is_cold() == cold);
                Spread::of(same.filter_map(|(_, ns)| ns.get(round).copied())).median
            })
            .collect()
    }

    fn shares(&self, empty: &[f64]) -> Vec<Share> {
        let ran = self.shares.iter().filter(|(_, rounds)| rounds.iter().any(|&(runs, _)| runs > 0.0));
        ran.map(|((scenario, program), rounds)| Share {
            scenario,
            program: program.clone(),
            runs: Spread::of(rounds.iter().map(|&(runs, _)| runs)).median,
            ns: Spread::of(rounds.iter().zip(empty).map(|(&(runs, ns), empty)| ns - runs * empty)),
        })
        .collect()
    }
}

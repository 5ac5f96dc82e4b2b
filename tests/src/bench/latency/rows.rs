//! What comes of the measurements of connects and questions.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    super::{
        numbers::{Spread, percentile},
        worker::{Answer, Asking, Pause},
    },
    Action, BLOCK, DIRECT, Variant,
    site::Site,
};

/// The results of a variant.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done: `connect`, or `connected` and `unconnected` questions.
    pub action: &'static str,
    /// Where it went, and how.
    pub variant: String,
    /// Services that the tables or rules hold; 0 where that does not matter.
    pub services: usize,
    /// Half of the connects (questions) took less, in nanoseconds; of each round.
    pub p50_ns: Spread,
    /// As above, nine in ten.
    pub p90_ns: Spread,
    /// As above, 99 in a hundred.
    pub p99_ns: Spread,
    /// Half of the connections took less to open and reset, sockets made and closed included.
    pub whole_ns: Spread,
    /// Connections opened and reset (questions answered) in a second by one thread, without a pause.
    pub per_second: Spread,
    /// `p50_ns` over that of direct connects in the same round.
    pub p50_ratio: Spread,
    /// `whole_ns` over that of direct connects in the same round.
    pub whole_ratio: Spread,
    /// `per_second` over that of direct connects in the same round.
    pub per_second_ratio: Spread,
    /// `p50_ns` less that of direct connects in the same round.
    pub added_ns: Spread,
    /// Connects that failed or were slow, in all rounds.
    pub failed: usize,
}

/// A variant in a round.
#[derive(Default)]
pub(super) struct Sample {
    connect: Vec<u64>,
    whole: Vec<u64>,
    hurried_ns: u64,
    failed: usize,
}

impl Sample {
    /// Measures a block of it.
    pub(super) fn add(&mut self, sites: &mut [Site], variant: &Variant) -> Result<()> {
        let dialler = &mut sites[variant.site].dialler;
        dialler.enter(&variant.cgroup)?;
        let mut run = |pause| -> Result<Answer> {
            match variant.action {
                Action::Connect => dialler.tcp(&variant.to, BLOCK, pause),
                Action::Ask(asking) => dialler.ask(&variant.to, BLOCK, pause, asking),
            }
        };
        let (measured, hurried) = (run(Pause::ServerSleeps)?, run(Pause::None)?);
        for answer in [&measured, &hurried] {
            ensure!(
                answer.failed.len() * 2 < BLOCK,
                "{}, {} with {} Services: {} of {BLOCK} failed, among them {:?}",
                variant.action.name(),
                variant.name,
                variant.services,
                answer.failed.len(),
                answer.failed.first()
            );
            self.failed += answer.failed.len() + answer.slow;
        }
        self.connect.extend(measured.connect_ns);
        self.whole.extend(measured.whole_ns);
        self.hurried_ns += hurried.total_ns;
        Ok(())
    }

    /// To be called once all is added.
    pub(super) fn sort(&mut self) {
        self.connect.sort_unstable();
        self.whole.sort_unstable();
    }
}

impl Action {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ask(Asking::Connected) => "connected",
            Self::Ask(Asking::Unconnected) => "unconnected",
        }
    }
}

/// Puts samples, by variant and round, in relation to the direct ones of the same action.
pub(super) fn rows(variants: &[Variant], samples: &[Vec<Sample>], count: usize) -> Vec<Row> {
    let connect = |share: f64| move |sample: &Sample| percentile(&sample.connect, share);
    let whole = |sample: &Sample| percentile(&sample.whole, 0.5);
    let per_second = |sample: &Sample| count as f64 / sample.hurried_ns.max(1) as f64 * 1e9;
    let row = |(index, variant): (usize, &Variant)| {
        let direct = variants.iter().position(|other| other.name == DIRECT && other.action == variant.action);
        let of = |index: usize, value: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
            samples[index].iter().map(value).collect()
        };
        let both = |value: &dyn Fn(&Sample) -> f64| (of(index, value), of(direct.unwrap_or(index), value));
        let ratio = |value: &dyn Fn(&Sample) -> f64| {
            let (ours, theirs) = both(value);
            Spread::of_ratios(&ours, &theirs)
        };
        let spread = |value: &dyn Fn(&Sample) -> f64| Spread::of(of(index, value));
        let (ours, theirs) = both(&connect(0.50));
        Row {
            action: variant.action.name(),
            variant: variant.name.clone(),
            services: variant.services,
            p50_ns: spread(&connect(0.50)),
            p90_ns: spread(&connect(0.90)),
            p99_ns: spread(&connect(0.99)),
            whole_ns: spread(&whole),
            per_second: spread(&per_second),
            p50_ratio: ratio(&connect(0.50)),
            whole_ratio: ratio(&whole),
            per_second_ratio: ratio(&per_second),
            added_ns: Spread::of(ours.iter().zip(theirs).map(|(ours, direct)| ours - direct)),
            failed: samples[index].iter().map(|sample| sample.failed).sum(),
        }
    };
    variants.iter().enumerate().map(row).collect()
}

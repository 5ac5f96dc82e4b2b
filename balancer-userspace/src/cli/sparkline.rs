//! The last minutes of a backend in one word.

use crate::view::ServiceView;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How tall the bars of a Service's backends are: alike, so that backends compare.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    most: u16,
    width: usize,
}

impl Scale {
    /// For bars of the last `width` samples; `None` where no backend has a sample among them.
    pub fn of(service: &ServiceView, width: usize) -> Option<Self> {
        let known = service.backends.iter().flat_map(|backend| {
            let samples = backend.history.samples();
            samples.into_iter().rev().take(width).flatten()
        });
        known.max().map(|most| Self { most, width })
    }

    /// A bar for each of the last samples, oldest first; blank where a sample is unknown. Only nothing is
    /// as low as the lowest bar.
    pub fn draw(self, samples: &[Option<u16>]) -> String {
        let bar = |sample: &Option<u16>| match *sample {
            None => ' ',
            Some(0) => LEVELS[0],
            Some(count) => {
                let most = usize::from(self.most.max(1));
                let level = (usize::from(count) * (LEVELS.len() - 1)).div_ceil(most);
                LEVELS[level.min(LEVELS.len() - 1)]
            }
        };
        samples[samples.len().saturating_sub(self.width)..].iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_compare_and_only_nothing_is_lowest() {
        let draw = |most, samples: &[Option<u16>]| Scale { most, width: 4 }.draw(samples);
        assert_eq!(draw(8, &[Some(0), Some(1), Some(4), Some(8)]), "▁▂▅█");
        assert_eq!(draw(1000, &[Some(0), Some(1), Some(999), Some(1000)]), "▁▂██");
        assert_eq!(draw(1, &[Some(1), None, Some(0)]), "█ ▁");
        assert_eq!(draw(0, &[Some(0)]), "▁");
        assert_eq!(draw(u16::MAX - 1, &[Some(7), None, None, None, Some(65_534)]), "   █");
        assert_eq!(draw(3, &[]), "");
    }
}

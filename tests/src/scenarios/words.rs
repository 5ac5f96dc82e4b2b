//! Figures and names as people read them.

use super::{measures::Median, outcome::Arm};

/// Where there is nothing to say.
pub(super) const NOTHING: &str = "–";

/// The name of an arm in tables and plots.
pub fn arm_name(arm: Arm) -> &'static str {
    match arm {
        Arm::Direct => "direct",
        Arm::Iptables => "iptables",
        Arm::Nftables => "nftables",
        Arm::IpvsRr => "IPVS rr",
        Arm::IpvsLc => "IPVS lc",
        Arm::IpvsSed => "IPVS sed",
        Arm::IpvsSh => "IPVS sh",
        Arm::ConnectOnly => "balancer",
        Arm::Rebalancing => "balancer, rebalancing",
    }
}

/// How much is said of a median.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// The figure alone.
    Brief,
    /// Its interval too.
    Full,
}

/// A median: `1.25 (1.20..1.50)`. The interval is left out where it is the value itself, and is a dash where there
/// were too few values for one.
pub(super) fn median(median: Option<Median>, digits: usize, detail: Detail) -> String {
    let Some(Median { value, interval, runs, never }) = median else { return NOTHING.into() };
    if value.is_infinite() {
        return format!("never ({never} of {runs})");
    }
    let show = |value: f64| if value.is_infinite() { "never".into() } else { format!("{value:.digits$}") };
    let mut text = show(value);
    if detail == Detail::Full {
        match interval.map(|(low, high)| (show(low), show(high))) {
            None => text.push_str(&format!(" ({NOTHING})")),
            Some((low, high)) if low == text && high == text => {}
            Some((low, high)) => text.push_str(&format!(" ({low}..{high})")),
        }
    }
    if never > 0 {
        text.push_str(&format!(", never in {never} of {runs}"));
    }
    text
}

/// The median of counts: whole, but for one between the middle two.
pub(super) fn count(of: Option<Median>, detail: Detail) -> String {
    let whole = of.is_none_or(|of| of.value.fract() == 0.0);
    median(of, usize::from(!whole), detail)
}

/// A whole number, in groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with as many digits as say something.
pub(super) fn short(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e15 {
        format!("{number:.0}")
    } else if number.abs() < 10.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[Option<f64>], full: &str, brief: &str) {
        let of = Median::censored(values.iter().copied());
        assert_eq!(median(of, 1, Detail::Full), full);
        assert_eq!(median(of, 1, Detail::Brief), brief);
    }

    #[test]
    fn medians_say_how_sure_they_are() {
        check(&[], "–", "–");
        check(&[Some(1.0), Some(2.0)], "1.5 (–)", "1.5");
        check(&[Some(2.0); 6], "2.0", "2.0");
        let some: Vec<Option<f64>> = (1..=6).map(|n| Some(f64::from(n))).collect();
        check(&some, "3.5 (1.0..6.0)", "3.5");
    }

    #[test]
    fn never_is_said_and_counted() {
        check(&[None; 7], "never (7 of 7)", "never (7 of 7)");
        check(
            &[Some(1.0), Some(1.0), Some(1.0), Some(1.0), Some(1.0), None],
            "1.0 (1.0..never), never in 1 of 6",
            "1.0, never in 1 of 6",
        );
    }

    #[test]
    fn numbers_are_grouped_and_kept_short() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [(2.0, "2"), (2.345, "2.35"), (-0.5, "-0.50"), (123.45, "123.5")] {
            assert_eq!(short(number), text);
        }
    }
}

//! What is known of the express lane.

/// What became of the express lane (`--express-lane`) for one address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum LaneState {
    /// It was not asked for.
    #[default]
    Off = 0,
    /// It was asked for, and nobody has looked yet.
    Waiting = 1,
    /// It is there, until the lease lapses.
    Installed = 2,
    /// Nobody needs it: kube-proxy has no rules here.
    NoRules = 3,
    /// Nobody needs it: kube-proxy is in its nftables mode.
    Nftables = 4,
    /// Nobody needs it: kube-proxy is in its IPVS mode.
    Ipvs = 5,
    /// It would change what is only to be observed.
    Observing = 6,
    /// The kernel refused it; the agent's log says why.
    Refused = 7,
}

impl LaneState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Off,
        Self::Waiting,
        Self::Installed,
        Self::NoRules,
        Self::Nftables,
        Self::Ipvs,
        Self::Observing,
        Self::Refused,
    ];

    /// From the number in a map. One that this version does not know is off.
    pub fn from_u32(number: u32) -> Self {
        Self::ALL.into_iter().find(|state| *state as u32 == number).unwrap_or_default()
    }

    /// The name that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Installed => "installed",
            Self::NoRules => "no-rules",
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
            Self::Observing => "observing",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LaneState;

    #[test]
    fn numbers_stay_what_they_are() {
        for (number, state) in LaneState::ALL.into_iter().enumerate() {
            assert_eq!((state as usize, LaneState::from_u32(number as u32)), (number, state));
        }
        assert_eq!(LaneState::from_u32(8), LaneState::Off);
    }
}

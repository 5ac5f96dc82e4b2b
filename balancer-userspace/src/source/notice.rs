//! What those who look after a Service should know of it.

use crate::model::{ObjectName, Uid};

/// Notices that wait to be announced; what is beyond is dropped, for nothing may wait for an announcement.
pub const QUEUE: usize = 256;

/// Something to tell those who look after a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Service.
    pub service: ObjectName,
    /// Which Service of that name.
    pub uid: Uid,
    /// What kind of thing.
    pub reason: NoticeReason,
    /// What it is and what to do about it. The same on all nodes that find it, so that they say it once.
    pub message: String,
}

/// What kind of thing a [`Notice`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeReason {
    /// Something in the Service or its slices is not used as it is written.
    Problem,
    /// The node's tables have no room for all of it.
    NoRoom,
    /// A node moves its idle connections no more.
    RebalanceStopped,
    /// A node moves them again.
    RebalanceResumed,
}

impl NoticeReason {
    /// As in an Event's `reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Problem => "BalancerProblem",
            Self::NoRoom => "BalancerNoRoom",
            Self::RebalanceStopped => "BalancerRebalanceStopped",
            Self::RebalanceResumed => "BalancerRebalanceResumed",
        }
    }
}

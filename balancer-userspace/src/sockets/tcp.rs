//! What the kernel measures of a TCP connection.

use std::{fmt, time::Duration};

use bytemuck::{Pod, Zeroable};

use super::parse::prefix;

/// The part of `struct tcp_info` that Linux 5.15 and later have (`include/uapi/linux/tcp.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[expect(missing_docs, reason = "the names are the kernel's, without their prefix tcpi_")]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub window_scales: u8,
    pub bits: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub fackets: u32,
    pub last_data_sent: u32,
    pub last_ack_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
}

const _: () = assert!(size_of::<TcpInfo>() == 216);

impl TcpInfo {
    /// From the kernel's bytes; `None` when there are fewer than Linux 5.15 gives.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        prefix(bytes)
    }
}

/// What an established TCP connection has been doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpMetrics {
    /// Time since payload was last sent; `None` if none ever was. Millisecond grain (a timer tick's).
    pub last_sent: Option<Duration>,
    /// Time since payload was last received; `None` if none ever was. Same grain.
    pub last_received: Option<Duration>,
    /// Smoothed round-trip time; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Segments that are sent and not acknowledged.
    pub unacked: u32,
    /// Times in a row that the oldest of them was sent again.
    pub retransmits: u8,
    /// Segments that were ever sent again.
    pub total_retransmits: u32,
    /// Payload bytes sent for the first time.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Bytes that the peer has acknowledged; the SYN counts as one.
    pub bytes_acked: u64,
    /// Payload bytes that the application wrote and the kernel has not sent yet.
    pub unsent: u32,
}

impl TcpMetrics {
    /// Of a connection in any state from SYN-SENT on.
    pub fn new(info: &TcpInfo) -> Self {
        let milliseconds = |count: u32| Duration::from_millis(count.into());
        Self {
            // Without payload the kernel counts from the handshake, or from nothing at all.
            last_sent: (info.data_segs_out > 0).then(|| milliseconds(info.last_data_sent)),
            last_received: (info.data_segs_in > 0).then(|| milliseconds(info.last_data_recv)),
            rtt: (info.rtt > 0).then(|| Duration::from_micros(info.rtt.into())),
            unacked: info.unacked,
            retransmits: info.retransmits,
            total_retransmits: info.total_retrans,
            bytes_sent: info.bytes_sent.saturating_sub(info.bytes_retrans),
            bytes_received: info.bytes_received,
            bytes_acked: info.bytes_acked,
            unsent: info.notsent_bytes,
        }
    }

    /// Time since payload last went either way.
    pub fn idle(&self) -> Option<Duration> {
        match (self.last_sent, self.last_received) {
            (Some(sent), Some(received)) => Some(sent.min(received)),
            (one, other) => one.or(other),
        }
    }
}

/// A TCP state (`include/net/tcp_states.h`), shown as RFC 9293 spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "RFC 9293 defines them")]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// From the kernel's number; `None` for one that RFC 9293 does not know.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "CLOSED",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(info: TcpInfo, expect: Option<u64>) {
        assert_eq!(TcpMetrics::new(&info).idle(), expect.map(Duration::from_millis), "{info:?}");
    }

    #[test]
    fn idle_is_the_time_since_payload_went_either_way() {
        let times = TcpInfo { last_data_sent: 70, last_data_recv: 30, ..Default::default() };
        check(times, None);
        check(TcpInfo { data_segs_out: 1, ..times }, Some(70));
        check(TcpInfo { data_segs_in: 1, ..times }, Some(30));
        check(TcpInfo { data_segs_in: 1, data_segs_out: 1, ..times }, Some(30));
    }

    #[test]
    fn a_later_kernels_longer_struct_is_read_and_a_shorter_one_is_not() {
        let info = TcpInfo { rtt: 125, bytes_sent: 9, ..Default::default() };
        let mut bytes = bytemuck::bytes_of(&info).to_vec();
        assert_eq!(TcpInfo::from_bytes(&bytes[..215]), None);
        bytes.extend([0xff; 64]);
        assert_eq!(TcpInfo::from_bytes(&bytes), Some(info));
    }

    #[test]
    fn every_state_has_its_number() {
        let known = (0..=u8::MAX).filter_map(TcpState::from_number).count();
        assert_eq!(known, 11);
        assert_eq!(TcpState::from_number(1), Some(TcpState::Established));
        assert_eq!(TcpState::from_number(11), Some(TcpState::Closing));
    }
}

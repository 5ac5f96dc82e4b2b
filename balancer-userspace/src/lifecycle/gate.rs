//! Whether a connection may be ended now without anybody noticing but by a reconnect. Pure.
//!
//! A connection that is ended while an answer is due cuts a request off; one that is idle between two
//! requests is opened anew by whoever holds it, when it is needed next. What tells the two apart is not the
//! silence alone (a slow answer is silent too) but that the last thing said was an answer:
//!
//! - *quiet*: no payload either way for as long as is asked for;
//! - *empty*: nothing unsent, unacknowledged, being sent again, or waiting to be read;
//! - *answered*: payload came in after what was sent last. That is known from the order of bytes, not from clocks
//!   (see `balancer-ebpf/src/tcp.rs`);
//! - *turns*: it went back and forth a few times before. A TLS 1.3 server sends session tickets behind the
//!   first request, which look like an answer.

use std::time::Duration;

use balancer_common::abi::{MARK_TRACKED, Phase, Refusal, SocketState};

use crate::sockets::TcpMetrics;

/// How many turns a connection must have had. A handshake of TLS 1.3 with a retry has two, before the first answer.
pub const TURNS: u32 = 3;

/// What is known of a connection, all of one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// What the programs recorded.
    pub state: SocketState,
    /// Whether the kernel has it in `ESTABLISHED`.
    pub established: bool,
    /// What the kernel measures.
    pub tcp: TcpMetrics,
    /// Bytes that wait to be read.
    pub receive_queue: u32,
    /// Bytes that are not acknowledged.
    pub send_queue: u32,
    /// Time since connect().
    pub age: Duration,
}

/// What is asked of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// How long it must have been quiet.
    pub quiet: Duration,
    /// How old it must be.
    pub min_age: Duration,
}

/// Whether `evidence` meets `demand`; otherwise the first reason against it.
pub fn judge(evidence: &Evidence, demand: &Demand) -> Result<(), Refusal> {
    let Evidence { state, tcp, .. } = evidence;
    if !evidence.established || state.phase != Phase::Established as u32 {
        return Err(Refusal::Changed);
    }
    if state.marks & MARK_TRACKED == 0 {
        return Err(Refusal::Untracked);
    }
    if tcp.unacked != 0
        || tcp.unsent != 0
        || tcp.retransmits != 0
        || evidence.receive_queue != 0
        || evidence.send_queue != 0
    {
        return Err(Refusal::InFlight);
    }
    if evidence.age < demand.min_age {
        return Err(Refusal::Young);
    }
    // A send may go unseen, where another program has taken our flag back: then what is noted is of an earlier one.
    if state.sent != tcp.bytes_acked || tcp.bytes_received <= state.received {
        return Err(Refusal::Unanswered);
    }
    if state.turns < TURNS {
        return Err(Refusal::FewTurns);
    }
    let quiet = |ago: Option<Duration>| ago.is_some_and(|ago| ago >= demand.quiet);
    if quiet(tcp.last_sent) && quiet(tcp.last_received) { Ok(()) } else { Err(Refusal::Busy) }
}

/// Whether nothing at all has happened between two looks.
pub fn same(before: &Evidence, after: &Evidence) -> bool {
    let counts = |evidence: &Evidence| {
        let Evidence { state, tcp, .. } = evidence;
        (state.sent, state.received, state.turns, tcp.bytes_acked, tcp.bytes_received, tcp.bytes_sent)
    };
    counts(before) == counts(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Evidence {
        let seconds = |count| Some(Duration::from_secs(count));
        Evidence {
            state: SocketState {
                phase: Phase::Established as u32,
                marks: MARK_TRACKED,
                sent: 401,
                received: 900,
                turns: 3,
                ..SocketState::default()
            },
            established: true,
            tcp: TcpMetrics {
                last_sent: seconds(3),
                last_received: seconds(2),
                rtt: None,
                unacked: 0,
                retransmits: 0,
                total_retransmits: 0,
                bytes_sent: 400,
                bytes_received: 1_200,
                bytes_acked: 401,
                unsent: 0,
            },
            receive_queue: 0,
            send_queue: 0,
            age: Duration::from_secs(10),
        }
    }

    fn check(change: impl Fn(&mut Evidence), expect: Result<(), Refusal>) {
        let mut evidence = idle();
        change(&mut evidence);
        let demand = Demand { quiet: Duration::from_secs(2), min_age: Duration::from_secs(10) };
        assert_eq!(judge(&evidence, &demand), expect, "{evidence:?}");
    }

    #[test]
    fn only_what_is_idle_between_two_requests_may_go() {
        check(|_| {}, Ok(()));
        check(|it| it.established = false, Err(Refusal::Changed));
        check(|it| it.state.phase = Phase::Closed as u32, Err(Refusal::Changed));
        check(|it| it.state.phase = Phase::Connecting as u32, Err(Refusal::Changed));
        check(|it| it.state.marks = 0, Err(Refusal::Untracked));
        check(|it| it.tcp.unacked = 1, Err(Refusal::InFlight));
        check(|it| it.tcp.unsent = 1, Err(Refusal::InFlight));
        check(|it| it.tcp.retransmits = 1, Err(Refusal::InFlight));
        check(|it| it.receive_queue = 1, Err(Refusal::InFlight));
        check(|it| it.send_queue = 1, Err(Refusal::InFlight));
        check(|it| it.age -= Duration::from_millis(1), Err(Refusal::Young));
        check(|it| it.state.turns = 2, Err(Refusal::FewTurns));
        check(|it| it.tcp.last_received = Some(Duration::from_millis(1_999)), Err(Refusal::Busy));
        check(|it| it.tcp.last_sent = Some(Duration::from_millis(1_999)), Err(Refusal::Busy));
        check(|it| it.tcp.last_sent = None, Err(Refusal::Busy));
    }

    #[test]
    fn what_was_sent_must_be_answered() {
        // Nothing came in since.
        check(|it| it.tcp.bytes_received = 900, Err(Refusal::Unanswered));
        // Something was sent that the programs did not see.
        check(|it| it.tcp.bytes_acked = 501, Err(Refusal::Unanswered));
    }

    #[test]
    fn a_second_look_shows_what_happened_between() {
        assert!(same(&idle(), &idle()));
        for change in [
            (|it: &mut Evidence| it.tcp.bytes_received += 1) as fn(&mut Evidence),
            |it| it.tcp.bytes_sent += 1,
            |it| it.tcp.bytes_acked += 1,
            |it| it.state.turns += 1,
        ] {
            let mut after = idle();
            change(&mut after);
            assert!(!same(&idle(), &after));
        }
    }
}

//! What test and peer process say to each other: one JSON document a line, one reply for each request.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// What a server answers with: who it is and whom it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the pod.
    pub pod: String,
    /// Address that the connection or datagram arrived at.
    pub local: SocketAddr,
    /// Address that it came from.
    pub peer: SocketAddr,
}

/// A socket that the client process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// Which socket to make. An IPv4 address given to an IPv6 kind is dialled v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// TCP, AF_INET.
    Tcp4,
    /// TCP, AF_INET6.
    Tcp6,
    /// MPTCP, AF_INET.
    Mptcp4,
    /// MPTCP, AF_INET6.
    Mptcp6,
    /// UDP, AF_INET.
    Udp4,
    /// UDP, AF_INET6.
    Udp6,
}

impl Kind {
    /// TCP of an address's own family.
    pub const fn tcp(to: SocketAddr) -> Self {
        if to.is_ipv4() { Self::Tcp4 } else { Self::Tcp6 }
    }

    /// UDP of an address's own family.
    pub const fn udp(to: SocketAddr) -> Self {
        if to.is_ipv4() { Self::Udp4 } else { Self::Udp6 }
    }

    /// Whether it is a stream.
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp4 | Self::Udp6)
    }
}

/// A socket option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// TCP_SYNCNT: SYNs sent again before ETIMEDOUT. 1 gives up after about 3 s.
    SynRetries(u8),
    /// TCP_USER_TIMEOUT, milliseconds.
    UserTimeout(u32),
    /// SO_RCVTIMEO, milliseconds; EAGAIN after that.
    ReceiveTimeout(u32),
    /// O_NONBLOCK.
    Nonblocking,
    /// No O_NONBLOCK.
    Blocking,
    /// Bind to a local address first.
    Bind(SocketAddr),
}

/// How to close a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Close {
    /// FIN.
    #[default]
    Graceful,
    /// RST: SO_LINGER with 0 seconds.
    Reset,
}

/// Whether to talk on a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Connect only.
    #[default]
    Nothing,
    /// Ask the server who it is; no answer is a failure.
    Identity,
}

/// When a loop ends. A [`Request::Stop`] always ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// After so many attempts.
    Count(u64),
    /// After so many milliseconds.
    Millis(u64),
    /// When stopped.
    Told,
}

/// Connections one after the other, each closed before the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopPlan {
    /// Where to.
    pub to: SocketAddr,
    /// Which sockets. UDP: connect, and a question and answer if asked for.
    pub kind: Kind,
    /// How long.
    pub until: Until,
    /// How each ends.
    #[serde(default)]
    pub close: Close,
    /// What is said on each.
    #[serde(default)]
    pub ask: Ask,
    /// Pause between them, microseconds.
    #[serde(default)]
    pub pause_us: u64,
}

impl LoopPlan {
    /// Graceful TCP connects of the address's family, nothing said, no pause.
    pub const fn tcp(to: SocketAddr, until: Until) -> Self {
        Self { to, kind: Kind::tcp(to), until, close: Close::Graceful, ask: Ask::Nothing, pause_us: 0 }
    }

    /// With this way to close.
    #[must_use]
    pub const fn close(self, close: Close) -> Self {
        Self { close, ..self }
    }

    /// With this said on each.
    #[must_use]
    pub const fn ask(self, ask: Ask) -> Self {
        Self { ask, ..self }
    }

    /// With this pause between them.
    #[must_use]
    pub const fn pause_us(self, pause_us: u64) -> Self {
        Self { pause_us, ..self }
    }
}

/// What a loop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopReport {
    /// Connections tried.
    pub attempts: u64,
    /// Those that failed, by step and error name (`connect ECONNREFUSED`, `answer EAGAIN`).
    pub failures: BTreeMap<String, u64>,
    /// Those that worked but whose connect() took more than 100 ms.
    pub slow: u64,
    /// Who answered how often, where asked.
    pub pods: BTreeMap<String, u64>,
    /// The time that successful connect() calls took.
    pub connect: Percentiles,
    /// How long the whole loop ran, nanoseconds.
    pub elapsed_ns: u64,
}

impl LoopReport {
    /// All that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Attempts a second.
    pub fn rate(&self) -> f64 {
        if self.elapsed_ns == 0 { 0.0 } else { self.attempts as f64 * 1e9 / self.elapsed_ns as f64 }
    }
}

/// Quantiles of durations in nanoseconds; all 0 when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: u64,
    /// Median.
    pub p50: u64,
    /// 90 of 100 are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1,000 are at most this.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    /// Of samples, which are sorted on the way.
    pub fn of(samples: &mut [u64]) -> Self {
        samples.sort_unstable();
        let (Some(&max), count) = (samples.last(), samples.len()) else { return Self::default() };
        // The smallest sample that at least `permille` of all do not exceed.
        let at = |permille: usize| samples[(count * permille).div_ceil(1000).max(1) - 1];
        let mean = samples.iter().sum::<u64>() / count as u64;
        Self { count: count as u64, mean, p50: at(500), p90: at(900), p99: at(990), p999: at(999), max }
    }
}

/// What became of connections that are held open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Held now, broken ones included.
    pub held: u64,
    /// Of these, ended by the other side.
    pub broken: u64,
    /// What failed since the last report, by step and error name.
    pub failures: BTreeMap<String, u64>,
    /// Who answered how many of them, where asked.
    pub pods: BTreeMap<String, u64>,
}

/// What a client process is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// socket(). Reply: [`Reply::Socket`].
    Socket {
        /// Which.
        kind: Kind,
    },
    /// setsockopt() and the like. Reply: [`Reply::Done`].
    Set {
        /// On which.
        socket: Handle,
        /// What.
        setting: Setting,
    },
    /// connect(). Reply: [`Reply::Done`].
    Connect {
        /// Which.
        socket: Handle,
        /// Where to.
        to: SocketAddr,
    },
    /// Waits until a nonblocking connect() is done and returns SO_ERROR. Reply: [`Reply::Done`].
    Finish {
        /// Which.
        socket: Handle,
        /// How long to wait, milliseconds; ETIME after that.
        timeout_ms: u32,
    },
    /// connect() to AF_UNSPEC. Reply: [`Reply::Done`].
    Disconnect {
        /// Which.
        socket: Handle,
    },
    /// getpeername(). Reply: [`Reply::Address`].
    Peer {
        /// Of which.
        socket: Handle,
    },
    /// getsockname(). Reply: [`Reply::Address`].
    Local {
        /// Of which.
        socket: Handle,
    },
    /// SO_COOKIE. Reply: [`Reply::Cookie`].
    Cookie {
        /// Of which.
        socket: Handle,
    },
    /// Asks the server at the other end of a connected socket who it is. Reply: [`Reply::Identity`].
    Ask {
        /// On which.
        socket: Handle,
    },
    /// sendto() with an address. Reply: [`Reply::Done`].
    SendTo {
        /// On which.
        socket: Handle,
        /// Where to.
        to: SocketAddr,
    },
    /// recvfrom(). Reply: [`Reply::Datagram`].
    ReceiveFrom {
        /// On which.
        socket: Handle,
    },
    /// dup(). Reply: [`Reply::Socket`].
    Duplicate {
        /// Of which.
        socket: Handle,
    },
    /// close(). Reply: [`Reply::Done`].
    Close {
        /// Which.
        socket: Handle,
        /// How.
        close: Close,
    },
    /// fork(): a child that has all sockets open and does nothing. Reply: [`Reply::Holder`].
    Fork,
    /// Sends a socket to a child by SCM_RIGHTS; it stays open here too. Reply: [`Reply::Done`].
    Pass {
        /// Which.
        socket: Handle,
        /// To which child.
        holder: u32,
    },
    /// Ends a child. Reply: [`Reply::Done`].
    End {
        /// Which child.
        holder: u32,
    },
    /// Opens connections and holds them. Reply: [`Reply::Hold`].
    Hold {
        /// How many more.
        count: u64,
        /// Where to.
        to: SocketAddr,
        /// Which sockets.
        kind: Kind,
    },
    /// Asks on every held connection. Reply: [`Reply::Hold`].
    AskHeld,
    /// Looks at held connections without saying anything. Reply: [`Reply::Hold`].
    CheckHeld,
    /// Closes held connections, oldest first. Reply: [`Reply::Hold`].
    Release {
        /// How many.
        count: u64,
        /// How.
        close: Close,
    },
    /// Closes the held connections that the other side ended. Reply: [`Reply::Hold`].
    ReleaseBroken,
    /// A loop. Reply, when it ends: [`Reply::Loop`].
    Loop(LoopPlan),
    /// Ends a running loop. No reply of its own.
    Stop,
}

/// What a client process answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", content = "value", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// A new socket.
    Socket(Handle),
    /// An address.
    Address(SocketAddr),
    /// A cookie.
    Cookie(u64),
    /// Who answered.
    Identity(Identity),
    /// A datagram: who sent it, and the source address that recvfrom() gave.
    Datagram {
        /// Source address as the application sees it.
        from: SocketAddr,
        /// Contents.
        identity: Identity,
    },
    /// A child process's id.
    Holder(u32),
    /// Held connections.
    Hold(HoldReport),
    /// A finished loop.
    Loop(LoopReport),
    /// The system call failed with this errno.
    Errno(i32),
    /// It was not possible for another reason.
    Error(String),
}

/// What a server process is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ServerRequest {
    /// Counts alone.
    Stats,
    /// Ends all open connections.
    CloseAll {
        /// How.
        close: Close,
    },
    /// Closes the listening sockets; connects are refused from now on, open connections stay.
    Refuse,
}

/// What a server process says: once when it listens, and as the reply to each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStats {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Open now.
    pub open: u64,
    /// Questions answered on connections.
    pub answers: u64,
    /// Datagrams answered.
    pub datagrams: u64,
}

/// The conventional name of an error number.
pub fn errno_name(errno: rustix::io::Errno) -> String {
    use rustix::io::Errno;
    let name = match errno {
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::AGAIN => "EAGAIN",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::HOSTUNREACH => "EHOSTUNREACH",
        Errno::INPROGRESS => "EINPROGRESS",
        Errno::ISCONN => "EISCONN",
        Errno::MFILE => "EMFILE",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::NOTCONN => "ENOTCONN",
        Errno::PERM => "EPERM",
        Errno::PIPE => "EPIPE",
        Errno::TIME => "ETIME",
        Errno::TIMEDOUT => "ETIMEDOUT",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<u64> = (1..=1000).rev().collect();
        let p = Percentiles::of(&mut samples);
        assert_eq!((p.count, p.p50, p.p90, p.p99, p.p999, p.max), (1000, 500, 900, 990, 999, 1000));
        assert_eq!(Percentiles::of(&mut [7]).p999, 7);
        assert_eq!(Percentiles::of(&mut []), Percentiles::default());
    }

    #[test]
    fn requests_survive_the_wire() {
        let plan = LoopPlan::tcp("10.96.0.1:80".parse().unwrap(), Until::Count(3)).ask(Ask::Identity);
        let text = serde_json::to_string(&Request::Loop(plan.clone())).unwrap();
        match serde_json::from_str(&text).unwrap() {
            Request::Loop(read) => assert_eq!(read, plan),
            other => panic!("{text} became {other:?}"),
        }
    }
}

//! What test and peer process say to each other: one JSON document a line, one reply for each request.

mod report;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::report::{HoldReport, LoopReport, Percentiles, ServerStats};

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
    /// Sends a text on a connected socket. Reply: [`Reply::Done`].
    Write {
        /// On which.
        socket: Handle,
        /// What; a server obeys some lines, see [`super::Server`].
        text: String,
    },
    /// Receives until there are so many bytes, or the end. Reply: [`Reply::Count`].
    Read {
        /// From which.
        socket: Handle,
        /// How many.
        bytes: u64,
    },
    /// shutdown(SHUT_WR). Reply: [`Reply::Done`].
    Shutdown {
        /// Of which.
        socket: Handle,
    },
    /// Threads that share a socket ask at the same time, each at every address in turn; then as many answers are received as
    /// questions were sent, or until the receive time-out. Reply: [`Reply::Answers`].
    AskTogether {
        /// On which.
        socket: Handle,
        /// Where to; nowhere: the connected peer.
        to: Vec<SocketAddr>,
        /// How many threads.
        threads: u32,
        /// How often each asks at each address.
        rounds: u32,
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
    /// How many bytes.
    Count(u64),
    /// How many answers came from which source address, as the application sees it, and which pod.
    Answers(Vec<(SocketAddr, String, u64)>),
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
    fn requests_survive_the_wire() {
        let plan = LoopPlan::tcp("10.96.0.1:80".parse().unwrap(), Until::Count(3)).ask(Ask::Identity);
        let text = serde_json::to_string(&Request::Loop(plan.clone())).unwrap();
        match serde_json::from_str(&text).unwrap() {
            Request::Loop(read) => assert_eq!(read, plan),
            other => panic!("{text} became {other:?}"),
        }
    }
}

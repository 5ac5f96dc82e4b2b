//! Taking hold of a socket of another process, looking at it, and ending its connection.
//!
//! Where the process can be reached (CAP_SYS_PTRACE over it, and the same PID namespace) its descriptor is
//! duplicated: looking costs microseconds then, and the end comes microseconds after the last look. Where it
//! cannot, the kernel is asked through sock_diag, and told to close the socket.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use balancer_common::abi::{Refusal, SocketState};
use rustix::{
    net::{Shutdown, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags},
};

use super::{
    gate::{self, Demand, Evidence},
    process::{self, Place},
};
use crate::{
    datapath::{Maps, boot_ns},
    sockets::{LiveSocket, TcpInfo, TcpMetrics, TcpState},
};

/// A socket of another process.
pub struct Hold {
    socket: OwnedFd,
    pid: u32,
    cookie: u64,
    backend: (u32, u32),
}

impl Hold {
    /// Takes hold of `socket`, which `place` says where it is.
    ///
    /// # Errors
    /// Why that cannot be done; [`Refusal::Unreachable`] where rights are missing.
    pub fn take(socket: &LiveSocket, place: &Place) -> Result<Self, Refusal> {
        let (pid, fd) = match place {
            Place::Held { pid, fd } => (*pid, *fd),
            Place::Shared => return Err(Refusal::Shared),
            Place::Hidden(_) => return Err(Refusal::Unreachable),
            Place::Nowhere => return Err(Refusal::Changed),
        };
        let process = Pid::from_raw(pid as i32).ok_or(Refusal::Changed)?;
        let taken = rustix::process::pidfd_open(process, PidfdFlags::empty())
            .and_then(|process| rustix::process::pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()));
        let taken = match taken {
            Ok(taken) => taken,
            // It has ended, or closed the descriptor.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::BADF) => return Err(Refusal::Changed),
            Err(_) => return Err(Refusal::Unreachable),
        };
        // The number may stand for another file by now, which is none of ours.
        if sockopt::socket_cookie(&taken) != Ok(socket.cookie) {
            return Err(Refusal::Changed);
        }
        Ok(Self { socket: taken, pid, cookie: socket.cookie, backend: socket.backend() })
    }

    /// The cookie of the socket.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    fn look(&self, maps: &Maps) -> Result<Evidence, Refusal> {
        let state: SocketState =
            maps.socket_state(self.socket.as_fd()).map_err(|_| Refusal::Failed)?.ok_or(Refusal::Changed)?;
        if (state.backend, state.generation) != self.backend {
            return Err(Refusal::Changed);
        }
        let info = tcp_info(self.socket.as_fd()).map_err(|_| Refusal::Failed)?;
        let queue = |request| queue(self.socket.as_fd(), request).map_err(|_| Refusal::Changed);
        Ok(Evidence {
            state,
            established: TcpState::from_number(info.state) == Some(TcpState::Established),
            tcp: TcpMetrics::new(&info),
            receive_queue: queue(libc::FIONREAD)?,
            send_queue: queue(libc::TIOCOUTQ)?,
            age: Duration::from_nanos(boot_ns().saturating_sub(state.opened_ns)),
        })
    }

    /// Whether the connection may be ended now: everything is asked for, then nobody may be running who could
    /// write, then nothing may have happened meanwhile.
    ///
    /// # Errors
    /// Why it may not.
    pub fn pass(&self, maps: &Maps, demand: &Demand) -> Result<Evidence, Refusal> {
        let first = self.look(maps)?;
        gate::judge(&first, demand)?;
        if !process::sleeps(self.pid) {
            return Err(Refusal::Running);
        }
        let second = self.look(maps)?;
        gate::judge(&second, demand)?;
        if gate::same(&first, &second) { Ok(second) } else { Err(Refusal::Busy) }
    }

    /// Whether nothing has happened on the connection since `before`.
    pub fn unchanged(&self, maps: &Maps, before: &Evidence) -> bool {
        self.look(maps).is_ok_and(|now| gate::same(before, &now))
    }

    /// Ends the connection in both directions, as if the peer had closed it. The process keeps its descriptor, on
    /// which it reads the end of the stream; this duplicate is closed at once, for else the process's own close()
    /// would send no FIN.
    ///
    /// # Errors
    /// [`Refusal::Changed`] if it is not connected any more.
    pub fn end(self) -> Result<(), Refusal> {
        rustix::net::shutdown(&self.socket, Shutdown::Both).map_err(|_| Refusal::Changed)
    }
}

/// The evidence of a listing, which is some time old.
pub fn listed(socket: &LiveSocket) -> Option<Evidence> {
    let crate::sockets::Translation::Connect(state) = socket.translation else { return None };
    Some(Evidence {
        state,
        established: socket.status == crate::sockets::SocketStatus::Tcp(TcpState::Established),
        tcp: socket.tcp?,
        receive_queue: socket.receive_queue,
        send_queue: socket.send_queue,
        age: socket.age?,
    })
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = TcpInfo::default();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` says how large `info` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// `SIOCINQ` or `SIOCOUTQ`, which go by other names in libc.
fn queue(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int to where the pointer leads, a live local.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes as u32) }
}

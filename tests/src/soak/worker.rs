//! The clients of a soak: a process in a pod that connects, asks, holds, duplicates, resets and gives up, at random, and
//! writes down each time what came of it.
//!
//! It is the soak's own binary, started again. It has one thread, as the gate for moving connections wants to see it asleep.

use std::{
    io::{self, BufWriter, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_userspace::datapath::{Access, Maps, Pins, boot_ns};
use rustix::{
    io::Errno,
    net::{connect_unspec, getpeername, sockopt},
};

use super::{
    dialling::{self, Fate},
    record::{Goal, Order, Plan, Record, Step, Transport},
};
use crate::input::Input;

/// A connection that is held.
struct Held {
    fd: OwnedFd,
    goal: Goal,
    chosen: Option<super::record::Chosen>,
    /// When the question was asked that was answered last. The answer may have been here for long before it was read, and the
    /// end of the connection behind it.
    worked_ns: u64,
}

/// What is to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Connect,
    GiveUp,
    Ask,
    Close,
    Duplicate,
    Redial,
    Datagram,
}

const DEEDS: [(Deed, u32); 7] = [
    (Deed::Connect, 50),
    (Deed::Ask, 30),
    (Deed::Close, 5),
    (Deed::Datagram, 8),
    (Deed::GiveUp, 3),
    (Deed::Duplicate, 2),
    (Deed::Redial, 2),
];

struct Worker {
    input: Input,
    plan: Plan,
    maps: Maps,
    dice: fastrand::Rng,
    held: Vec<Held>,
    /// An unconnected UDP socket of each family.
    datagrams: [OwnedFd; 2],
    out: BufWriter<io::Stdout>,
}

/// Where the unconnected sockets are bound, by family.
const ANY: [&str; 2] = ["0.0.0.0:0", "[::]:0"];

/// Works until standard input ends.
pub fn run() -> Result<()> {
    let mut input = Input::of_stdin().context("stdin")?;
    let line = input.next_line().context("stdin")?.context("no plan")?;
    let plan: Plan = serde_json::from_str(&line).with_context(|| format!("plan {line}"))?;
    let maps = Maps::open(&Pins::new(&plan.pins), Access::Read).context("tables")?;
    let datagrams = [dialling::datagram_socket(ANY[0])?, dialling::datagram_socket(ANY[1])?];
    let dice = fastrand::Rng::with_seed(plan.seed);
    let out = BufWriter::new(io::stdout());
    let mut worker = Worker { input, plan, maps, dice, held: Vec::new(), datagrams, out };
    while worker.orders()? {
        worker.deed()?;
        worker.out.flush().context("stdout")?;
    }
    Ok(())
}

impl Worker {
    /// Waits for a while for an order, and obeys; `false` at the end.
    fn orders(&mut self) -> Result<bool> {
        let pause = Duration::from_micros(self.dice.u64(0..=self.plan.pause_us));
        let mut paused = false;
        loop {
            if !self.input.wait((!paused).then_some(pause)).context("stdin")? {
                return Ok(true);
            }
            let Some(line) = self.input.next_line().context("stdin")? else { return Ok(false) };
            match serde_json::from_str(&line).with_context(|| format!("order {line}"))? {
                Order::Go => return Ok(true),
                Order::Pause => paused = true,
                Order::Drop => {
                    self.held.clear();
                    for (socket, address) in self.datagrams.iter_mut().zip(ANY) {
                        *socket = dialling::datagram_socket(address)?;
                    }
                }
            }
            self.say(&Record::Paused { held: self.held.len() })?;
            self.out.flush().context("stdout")?;
        }
    }

    fn deed(&mut self) -> Result<()> {
        let sum = DEEDS.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.dice.u32(0..sum);
        let deed = DEEDS.iter().find(|(_, weight)| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        match deed.map_or(Deed::Connect, |(deed, _)| *deed) {
            Deed::Connect => self.connect(None),
            Deed::GiveUp => self.give_up(),
            Deed::Ask => self.ask(),
            Deed::Close => {
                if let Some(held) = self.take() {
                    dialling::close(held.fd, self.fate());
                }
                Ok(())
            }
            Deed::Duplicate => self.duplicate(),
            Deed::Redial => self.redial(),
            Deed::Datagram => self.datagram(),
        }
    }

    /// Mostly a Service, sometimes a pod itself.
    fn goal(&mut self) -> (Goal, Transport, SocketAddr) {
        if self.dice.u8(0..10) == 0 {
            let (pod, addr) = self.plan.direct[self.dice.usize(0..self.plan.direct.len())];
            let transport = if self.dice.u8(0..4) == 0 { Transport::Udp } else { Transport::Tcp };
            return (Goal::Direct(pod, transport), transport, addr);
        }
        let front = self.dice.usize(0..self.plan.fronts.len());
        let (transport, addr) = self.plan.fronts[front];
        (Goal::Front(front), transport, addr)
    }

    fn fate(&mut self) -> Fate {
        if self.dice.u8(0..3) == 0 { Fate::Reset } else { Fate::Fin }
    }

    fn take(&mut self) -> Option<Held> {
        let held = self.held.len();
        (held > 0).then(|| self.held.swap_remove(self.dice.usize(0..held)))
    }

    /// One connect, on a new socket or again on one that was disconnected; asks; keeps it or closes it.
    fn connect(&mut self, again: Option<(OwnedFd, usize)>) -> Result<()> {
        let (goal, transport, addr, fd) = match again {
            Some((fd, front)) => {
                let (transport, addr) = self.plan.fronts[front];
                (Goal::Front(front), transport, addr, fd)
            }
            None => {
                let (goal, transport, addr) = self.goal();
                (goal, transport, addr, dialling::socket(transport, addr)?)
            }
        };
        let begun = boot_ns();
        let result = dialling::begin(&fd, addr);
        let returned = boot_ns();
        let chosen = dialling::chosen(&self.maps, &fd, begun)?;
        let connected = result.and_then(|()| dialling::finish(&fd, transport));
        let mut peer = None;
        let (mut failed, mut answered) = (None, None);
        let asked = boot_ns();
        match connected {
            Err(errno) => failed = Some((Step::Connect, dialling::name(errno))),
            Ok(()) => {
                peer = getpeername(&fd).ok().flatten().and_then(|it| SocketAddr::try_from(it).ok());
                match dialling::ask(&fd, transport) {
                    Ok(at) => answered = Some(at),
                    Err(how) => failed = Some((Step::Answer, how)),
                }
            }
        }
        let ended = boot_ns();
        let peer = peer.filter(|peer| *peer != addr);
        self.say(&Record::Connect {
            goal,
            at: [begun, returned, ended],
            chosen,
            failed: failed.clone(),
            answered,
            peer,
        })?;
        if failed.is_none() && self.held.len() < self.plan.hold && self.dice.u8(0..3) == 0 {
            self.held.push(Held { fd, goal, chosen, worked_ns: asked });
        } else {
            dialling::close(fd, self.fate());
        }
        Ok(())
    }

    /// Connects, and closes before the handshake is over, or just after.
    fn give_up(&mut self) -> Result<()> {
        let (_, transport, addr) = self.goal();
        let fd = dialling::socket(transport, addr)?;
        _ = dialling::begin(&fd, addr);
        dialling::close(fd, self.fate());
        Ok(())
    }

    /// Asks on a connection that is held. One that has ended is let go.
    fn ask(&mut self) -> Result<()> {
        let Some(mut held) = self.take() else { return Ok(()) };
        let transport = match held.goal {
            Goal::Front(front) => self.plan.fronts[front].0,
            Goal::Direct(_, transport) => transport,
        };
        let (goal, chosen) = (held.goal, held.chosen);
        if let Some(how) = dialling::ended(&held.fd, transport) {
            return self.say(&Record::Ended { goal, chosen, at: [held.worked_ns, boot_ns()], how });
        }
        let asked = boot_ns();
        let failed = dialling::ask(&held.fd, transport).err();
        let at = [held.worked_ns, boot_ns()];
        self.say(&Record::Asked { goal, chosen, at, failed: failed.clone() })?;
        if failed.is_none() {
            held.worked_ns = asked;
            self.held.push(held);
        }
        Ok(())
    }

    /// A second descriptor takes the place of the first, whose close() ends nothing.
    fn duplicate(&mut self) -> Result<()> {
        let Some(mut held) = self.take() else { return Ok(()) };
        let copy = rustix::io::fcntl_dupfd_cloexec(&held.fd, 0).context("dup")?;
        held.fd = copy;
        self.held.push(held);
        Ok(())
    }

    /// connect() to nowhere, and again on the same socket.
    fn redial(&mut self) -> Result<()> {
        let Some(held) = self.take() else { return Ok(()) };
        let (Goal::Front(front), goal, chosen) = (held.goal, held.goal, held.chosen) else { return Ok(()) };
        if let Some(how) = dialling::ended(&held.fd, self.plan.fronts[front].0) {
            return self.say(&Record::Ended { goal, chosen, at: [held.worked_ns, boot_ns()], how });
        }
        // An error of its former life is not one of the next.
        let cleared = connect_unspec(&held.fd).and_then(|()| sockopt::socket_error(&held.fd).map(drop));
        if cleared.is_ok() { self.connect(Some((held.fd, front))) } else { Ok(()) }
    }

    /// A question by sendto() from a socket that is never connected.
    fn datagram(&mut self) -> Result<()> {
        let udp: Vec<usize> = (0..self.plan.fronts.len())
            .filter(|&front| self.plan.fronts[front].0 == Transport::Udp)
            .collect();
        let Some(&front) = udp.get(self.dice.usize(0..udp.len().max(1))) else { return Ok(()) };
        let addr = self.plan.fronts[front].1;
        let socket = &self.datagrams[usize::from(addr.is_ipv6())];
        let begun = boot_ns();
        let outcome = dialling::exchange(socket, addr);
        let chosen = dialling::flow(&self.maps, socket, addr, begun)?;
        let ended = boot_ns();
        if outcome.is_err() {
            // As a resolver does: an answer that is late is not one to the next question.
            let (family, address) = if addr.is_ipv6() { (1, ANY[1]) } else { (0, ANY[0]) };
            self.datagrams[family] = dialling::datagram_socket(address)?;
        }
        let (failed, answered, peer) = match outcome {
            Ok((at, from)) => (None, Some(at), (from != addr).then_some(from)),
            Err((step, how)) => (Some((step, how)), None, None),
        };
        self.say(&Record::Connect {
            goal: Goal::Front(front),
            at: [begun, ended, ended],
            chosen,
            failed,
            answered,
            peer,
        })
    }

    fn say(&mut self, record: &Record) -> Result<()> {
        serde_json::to_writer(&mut self.out, record).context("record")?;
        self.out.write_all(b"\n").context("stdout")
    }
}

/// For callers that have an error number alone.
pub(super) const fn would_block(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INPROGRESS | Errno::INTR)
}

//! Payload bytes and retransmits, for every order in which a connection can end.
//!
//! The kernel counts sequence numbers, of which SYN and FIN take one each; what is shown has them taken off again.

use std::time::Duration;

use balancer_tests::{
    agent::Agent,
    peer::{
        Server, Socket,
        protocol::{Close, Kind, Setting},
    },
    topology::Pod,
};

use rustix::io::Errno;

use crate::{Counts, World, eventually, expect, vip};

/// One connection, from connect() to its end.
struct Line<'a> {
    socket: Option<Socket>,
    server: &'a mut Server,
    pod: &'a Pod,
}

impl Line<'_> {
    fn socket(&self) -> &Socket {
        self.socket.as_ref().unwrap()
    }

    /// Sends `text`, has `answer` bytes sent back and reads `read` of them.
    fn talk(&self, text: &str, read: u64) {
        self.socket().write(text).unwrap();
        assert_eq!(self.socket().read(read).unwrap(), read);
    }

    /// Sends a line of `bytes` bytes that nothing comes of but an acknowledgement, which is waited for.
    fn upload(&self, bytes: usize) {
        self.socket().write(format!("mute{}\n", "x".repeat(bytes - 5))).unwrap();
        self.talk("send 1\n", 1);
    }

    fn close(&mut self, how: Close) {
        self.socket.take().unwrap().close(how).unwrap();
    }

    /// Waits for the server's end.
    fn end(&self) {
        assert_eq!(self.socket().read(1).unwrap(), 0, "no end");
    }

    fn server_closes(&mut self, how: Close) {
        self.server.close_all(how).unwrap();
    }

    /// What the client sends gets lost.
    fn cut(&self) {
        self.pod.unplug().unwrap();
    }

    fn mend(&self) {
        self.pod.plug().unwrap();
    }
}

/// Has a connection live and end as `script` says, and compares what was counted: payload in, payload out.
struct Case {
    name: &'static str,
    script: fn(&mut Line<'_>),
    bytes: (u64, u64),
}

const fn case(name: &'static str, script: fn(&mut Line<'_>), bytes: (u64, u64)) -> Case {
    Case { name, script, bytes }
}

/// Time for a segment to cross two links.
fn moment() {
    std::thread::sleep(Duration::from_millis(100));
}

const CASES: &[Case] = &[
    case("nothing is said", |line| line.close(Close::Graceful), (0, 0)),
    case(
        "the client closes",
        |line| {
            line.talk("send 1000\n", 1000);
            line.close(Close::Graceful);
        },
        (1000, 10),
    ),
    case(
        "the client closes, much was said",
        |line| {
            line.talk("send 3000000\n", 3_000_000);
            line.upload(200_000);
            line.close(Close::Graceful);
        },
        (3_000_001, 13 + 200_000 + 7),
    ),
    case(
        "the server closes",
        |line| {
            line.talk("send 1000\n", 1000);
            line.talk("close\n", 0);
            line.end();
            line.close(Close::Graceful);
        },
        (1000, 16),
    ),
    case(
        "the server closes, with its last words unread",
        |line| {
            line.talk("send 1000\nclose\n", 0);
            moment();
            line.close(Close::Graceful);
        },
        (1000, 16),
    ),
    case(
        "the client half-closes, the server then closes, and the client last",
        |line| {
            line.talk("send 1000\n", 1000);
            line.socket().shutdown().unwrap();
            line.end();
            moment();
            line.close(Close::Graceful);
        },
        (1000, 10),
    ),
    case(
        "the client half-closes, and the server has more to say",
        |line| {
            line.talk("send 1000\nlast 50000\n", 1000);
            line.socket().shutdown().unwrap();
            assert_eq!(line.socket().read(60_000).unwrap(), 50_000);
            line.close(Close::Graceful);
        },
        (51_000, 21),
    ),
    case(
        "the server half-closes, and the client has more to say",
        |line| {
            line.talk("send 1000\nshut\n", 1000);
            line.end();
            line.socket().write("mute\n").unwrap();
            line.socket().write("mute mute\n").unwrap();
            moment();
            line.close(Close::Graceful);
        },
        (1000, 15 + 5 + 10),
    ),
    case(
        "the client closes, and the server does not",
        |line| {
            line.talk("send 1000\ndeaf\n", 1000);
            line.close(Close::Graceful);
            moment();
            line.server_closes(Close::Graceful);
        },
        (1000, 15),
    ),
    case(
        "the client closes, the server has more to say, which is reset",
        |line| {
            line.talk("send 1000\nlast 5000\n", 1000);
            line.close(Close::Graceful);
        },
        (1000, 20),
    ),
    case(
        "the client resets",
        |line| {
            line.talk("send 1000\n", 1000);
            line.close(Close::Reset);
        },
        (1000, 10),
    ),
    case(
        "the client resets what the server half-closed",
        |line| {
            line.talk("send 1000\nshut\n", 1000);
            line.end();
            line.close(Close::Reset);
        },
        (1000, 15),
    ),
    case(
        "the client resets what it half-closed",
        |line| {
            line.talk("send 1000\ndeaf\n", 1000);
            line.socket().shutdown().unwrap();
            moment();
            line.close(Close::Reset);
        },
        (1000, 15),
    ),
    case(
        "the server resets",
        |line| {
            line.talk("send 1000\n", 1000);
            line.server_closes(Close::Reset);
        },
        (1000, 10),
    ),
    case(
        "the server resets what the client half-closed",
        |line| {
            line.talk("send 1000\ndeaf\n", 1000);
            line.socket().shutdown().unwrap();
            moment();
            line.server_closes(Close::Reset);
        },
        (1000, 15),
    ),
    case(
        "the server resets what it half-closed",
        |line| {
            line.talk("send 1000\nshut\n", 1000);
            line.end();
            line.server_closes(Close::Reset);
        },
        (1000, 15),
    ),
    case(
        "the client closes with data unread",
        |line| {
            line.talk("send 1000\n", 1);
            line.close(Close::Graceful);
        },
        (1000, 10),
    ),
    case(
        "the server closes with data unread",
        |line| {
            line.talk("send 1000\ndeaf\n", 1000);
            line.socket().write("x".repeat(5000)).unwrap();
            moment();
            line.server_closes(Close::Graceful);
        },
        (1000, 15 + 5000),
    ),
    case(
        "the client takes the socket down",
        |line| {
            line.talk("send 1000\n", 1000);
            line.socket().disconnect().unwrap();
        },
        (1000, 10),
    ),
    case(
        "both close at the same time",
        |line| {
            line.talk("send 1000\n", 1000);
            line.cut();
            line.close(Close::Graceful);
            line.server_closes(Close::Graceful);
            moment();
            line.mend();
        },
        (1000, 10),
    ),
    case(
        "the server resets before it learns that the client closed",
        |line| {
            line.talk("send 1000\n", 1000);
            line.cut();
            line.close(Close::Graceful);
            line.server_closes(Close::Reset);
            line.mend();
        },
        (1000, 10),
    ),
    case(
        "the server half-closes and resets before it learns that the client closed",
        |line| {
            line.talk("send 1000\nshut\n", 1000);
            line.end();
            moment();
            line.cut();
            line.close(Close::Graceful);
            line.server_closes(Close::Reset);
            line.mend();
        },
        (1000, 15),
    ),
    case(
        "what the client says last never arrives",
        |line| {
            line.talk("send 1000\n", 1000);
            line.cut();
            line.socket().set(Setting::UserTimeout(300)).unwrap();
            line.socket().write("lost\n").unwrap();
            eventually("a time-out", || line.socket().read(1).is_err());
            line.mend();
            line.server_closes(Close::Graceful);
        },
        (1000, 10),
    ),
];

/// Runs all cases against one address; a failure names them all.
fn run_all(world: &mut World, to: std::net::SocketAddr) {
    // Apart from the world, whose servers are lent out.
    let mut servers = std::mem::take(&mut world.servers);
    let agent: Agent<'_> = world.agent();
    let client = world.client();
    let mut wrong = Vec::new();
    let mut before = (0, 0);
    for (index, case) in CASES.iter().enumerate() {
        let mut line =
            Line { socket: Some(client.connect(to).unwrap()), server: &mut servers[0], pod: &world.pods[0] };
        (case.script)(&mut line);
        drop(line);
        expect(&agent, to, Counts::done(index as u64 + 1));
        // The connection itself ends after the socket: when the last FIN is acknowledged, at the latest.
        let sums = || {
            let stats = agent.stats_of(to).unwrap();
            (stats.total(|backend| backend.bytes_in), stats.total(|backend| backend.bytes_out))
        };
        let expected = (before.0 + case.bytes.0, before.1 + case.bytes.1);
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        while sums() != expected && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let after = sums();
        if after != expected {
            let found = (after.0.wrapping_sub(before.0) as i64, after.1.wrapping_sub(before.1) as i64);
            wrong.push(format!("{}: expected {:?}, found {found:?}", case.name, case.bytes));
        }
        before = after;
    }
    assert!(wrong.is_empty(), "payload bytes in and out:\n{}", wrong.join("\n"));
}

#[test]
fn payload_is_exact_for_every_way_to_end_v4() {
    run_all(&mut World::web(1), vip(1).v4);
}

#[test]
fn payload_is_exact_for_every_way_to_end_v6() {
    run_all(&mut World::web(1), vip(1).v6);
}

#[test]
fn a_segment_that_is_sent_again_is_counted() {
    let world = World::web(1);
    let agent = world.agent();
    let client = world.client();
    client.ask(vip(1).v4).unwrap();
    let stats = expect(&agent, vip(1).v4, Counts::done(1));
    assert_eq!(stats.backends[0].retransmits, 0);

    // The first SYN is lost, the second one, a second later, is answered.
    world.pods[0].unplug().unwrap();
    let socket = client.socket(Kind::Tcp4).unwrap();
    socket.set(Setting::Nonblocking).unwrap();
    assert_eq!(socket.connect(vip(1).v4).unwrap_err().errno(), Some(Errno::INPROGRESS));
    world.pods[0].plug().unwrap();
    socket.finish(Duration::from_secs(10)).unwrap();
    socket.close(Close::Graceful).unwrap();
    expect(&agent, vip(1).v4, Counts::done(2));
    eventually("one retransmit", || agent.stats_of(vip(1).v4).unwrap().backends[0].retransmits == 1);
    let stats = agent.json(["stats", "web"]).unwrap();
    let handshake = stats["items"].as_array().unwrap().iter().find_map(|item| {
        (item["protocol"] == "TCP" && item["family"] == "IPv4").then(|| &item["backends"][0]["handshake"])
    });
    let handshake = handshake.unwrap();
    let slowest = handshake["buckets"].as_array().unwrap().last().unwrap();
    // Between 1 s and 2.1 s: the bound of its bucket is 2^30 or 2^31 nanoseconds.
    let bound = slowest["atMostSeconds"].as_f64().unwrap();
    assert!((1.07..2.15).contains(&bound) && slowest["count"] == 1, "{handshake:#}");
}

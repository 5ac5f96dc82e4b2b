//! How long a client is without a connection that it lost.

use std::{
    collections::{HashSet, VecDeque},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Time between two looks, and so the grain of all times. A look walks through a table of the kernel that is as large as the
/// machine, not as the namespace; ten a second are a few percent of a processor.
const PERIOD: Duration = Duration::from_millis(100);

/// `TCP_ESTABLISHED`, as `/proc/net/tcp` has it.
const ESTABLISHED: &str = "01";

/// A thread that looks at a process's sockets until it is told to stop.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Reconnects>,
}

impl Watch {
    /// Begins to look at the connections to a port in the network namespace of a process, of which some are open.
    pub fn start(pid: u32, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // A library dials from sockets of one family.
            let file = ["tcp", "tcp6"].map(|name| format!("/proc/{pid}/net/{name}"));
            let file = file.into_iter().find(|file| !established(file, port).is_empty()).unwrap_or_default();
            let mut reconnects = Reconnects::default();
            while !stopped.load(Ordering::Relaxed) {
                reconnects.observe(Instant::now(), established(&file, port));
                thread::sleep(PERIOD);
            }
            reconnects
        });
        Self { stop, thread }
    }

    /// What it has seen.
    pub fn finish(self) -> Reconnects {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Local ports of established connections to a remote port. A file that is gone has none.
fn established(file: &str, port: u16) -> HashSet<u16> {
    ports(&fs::read_to_string(file).unwrap_or_default(), port)
}

fn ports(table: &str, remote: u16) -> HashSet<u16> {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (from, to, state) = (port(fields.next()?)?, port(fields.next()?)?, fields.next()?);
        (state == ESTABLISHED && to == remote).then_some(from)
    };
    table.lines().filter_map(line).collect()
}

/// Ends of connections, and the beginnings that followed them.
///
/// The nth end belongs to the nth beginning after it. Clients whose workers each have a connection may open theirs in another
/// order; the sum of the times is the same, and long ones look shorter than they are.
#[derive(Debug, Default)]
pub struct Reconnects {
    open: HashSet<u16>,
    /// Ends that no beginning has followed yet.
    pub waiting: VecDeque<Instant>,
    /// From ends to beginnings.
    pub took: Vec<Duration>,
}

impl Reconnects {
    fn observe(&mut self, now: Instant, open: HashSet<u16>) {
        let ended = self.open.difference(&open).count();
        self.waiting.extend(std::iter::repeat_n(now, ended));
        for _ in open.difference(&self.open) {
            // Without an end before it the client's pool has grown.
            self.took.extend(self.waiting.pop_front().map(|end| now - end));
        }
        self.open = open;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0200F40A:C350 0300F40A:1F90 01 00000000:00000000 00:00000000 00000000     0
   1: 0200F40A:C351 0300F40A:1F90 06 00000000:00000000 00:00000000 00000000     0
   2: 0200F40A:C352 0300F40A:0050 01 00000000:00000000 00:00000000 00000000     0
   3: 0000000000000000FFFF00000200F40A:C353 0000000000000000FFFF00000300F40A:1F90 01 00000000:00000000\n";
        assert_eq!(ports(table, 8080), HashSet::from([50_000, 50_003]));
    }

    #[test]
    fn ends_are_followed_by_beginnings_in_their_order() {
        let start = Instant::now();
        let mut reconnects = Reconnects::default();
        for (ms, open) in
            [(0, vec![1, 2]), (100, vec![1, 2, 3]), (200, vec![3]), (500, vec![3, 4]), (700, vec![4, 5])]
        {
            reconnects.observe(start + Duration::from_millis(ms), open.into_iter().collect());
        }
        // 1 and 2 ended at 200, 3 at 700; 4 came at 500 and 5 at 700.
        assert_eq!(reconnects.took, [300, 500].map(Duration::from_millis));
        assert_eq!(reconnects.waiting, [start + Duration::from_millis(700)]);
    }
}

//! A client or a server, one process each, that tests start in pods. See `balancer_tests::peer` for what it is told and says.

mod bulk;
mod client;
mod holder;
mod server;
mod sockets;
mod together;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A client or a server under test control: JSON lines on standard input and output.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Makes the system calls it is asked for.
    Client,
    /// Answers who it is.
    Server {
        /// Name to answer with.
        #[arg(long)]
        name: String,
        /// TCP address to listen on.
        #[arg(long)]
        tcp: Vec<SocketAddr>,
        /// MPTCP address to listen on.
        #[arg(long)]
        mptcp: Vec<SocketAddr>,
        /// UDP address to answer on.
        #[arg(long)]
        udp: Vec<SocketAddr>,
        /// Wait this long before each answer.
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Thousands of connections: as many descriptors as the hard limit has.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    match arguments.role {
        Role::Client => client::serve(),
        Role::Server { name, tcp, mptcp, udp, delay_ms } => {
            server::serve(server::Options { name, tcp, mptcp, udp, delay: Duration::from_millis(delay_ms) })
        }
    }
}

//! A server in a pod.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::{
    link::Link,
    protocol::{Close, ServerRequest, ServerStats},
};
use crate::{
    kernel::patience,
    topology::{Pod, Process},
};

const TIMEOUT: Duration = Duration::from_secs(20);

/// What a server listens on and how it behaves.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
    /// MPTCP addresses.
    pub mptcp: Vec<SocketAddr>,
    /// UDP addresses.
    pub udp: Vec<SocketAddr>,
    /// Waits this long before each answer.
    pub delay: Duration,
}

impl ServerOptions {
    /// TCP and UDP on both of the pod's addresses.
    pub fn all(pod: &Pod, port: u16) -> Self {
        let both = vec![pod.v4(port), pod.v6(port)];
        Self { tcp: both.clone(), udp: both, ..Self::default() }
    }
}

/// A process that answers who it is: to the line `who` or a datagram with an [`super::protocol::Identity`] in JSON, to an HTTP GET with
/// the same as text. It keeps connections open until the client closes them.
///
/// Some lines on a connection are orders that are not answered: `send N` (N bytes are sent), `shut` (shutdown(SHUT_WR)), `close`, `reset`,
/// `deaf` (nothing more is read), `last N` (when the client shuts its side, N bytes are sent before the connection is closed), and anything that begins
/// with `mute` (nothing is done).
#[derive(Debug)]
pub struct Server {
    link: Link,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(pod: &Pod, options: &ServerOptions) -> Result<Self> {
        let mut arguments = vec!["server".to_owned(), "--name".to_owned(), pod.name().to_owned()];
        let mut add = |flag: &str, addresses: &[SocketAddr]| {
            arguments.extend(addresses.iter().flat_map(|addr| [flag.to_owned(), addr.to_string()]));
        };
        add("--tcp", &options.tcp);
        add("--mptcp", &options.mptcp);
        add("--udp", &options.udp);
        if !options.delay.is_zero() {
            arguments.extend(["--delay-ms".into(), options.delay.as_millis().to_string()]);
        }
        let mut link = Link::start(pod, &arguments)?;
        let ServerStats { .. } = link.receive(patience(TIMEOUT))?;
        Ok(Self { link })
    }

    /// TCP and UDP on both of the pod's addresses.
    pub fn dual(pod: &Pod, port: u16) -> Result<Self> {
        Self::start(pod, &ServerOptions::all(pod, port))
    }

    /// Its counts.
    pub fn stats(&mut self) -> Result<ServerStats> {
        self.call(&ServerRequest::Stats)
    }

    /// Ends all its connections.
    pub fn close_all(&mut self, close: Close) -> Result<ServerStats> {
        self.call(&ServerRequest::CloseAll { close })
    }

    /// Stops listening: connects are refused from now on, open connections stay.
    pub fn refuse(&mut self) -> Result<ServerStats> {
        self.call(&ServerRequest::Refuse)
    }

    /// The process, for signals: SIGSTOP makes a server that accepts (the kernel does) but never answers.
    pub fn process(&mut self) -> &mut Process {
        self.link.process()
    }

    fn call(&mut self, request: &ServerRequest) -> Result<ServerStats> {
        self.link.send(request)?;
        self.link.receive(patience(TIMEOUT))
    }
}

impl Pod {
    /// A server for TCP and UDP on both of its addresses: [`Server::dual`].
    pub fn server(&self, port: u16) -> Result<Server> {
        Server::dual(self, port)
    }
}

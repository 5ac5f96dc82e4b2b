//! A listener with a bound on the number of its connections and on how long each may be idle.
//!
//! Whoever comes is let in: where all places are taken, the connection that has been there longest gives its own up. Any
//! process of the node can hold connections open, and feed them a byte now and then; a kubelet that could not ask
//! `/livez` for that would kill the agent.

use std::{
    collections::VecDeque,
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// How long a connection may go without a byte either way. Scrapers that keep connections come by every minute.
const IDLE: Duration = Duration::from_secs(150);

/// A [`TcpListener`] within these bounds.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    places: Arc<Places>,
    idle: Duration,
}

/// Who has a place.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came; who is dropped here is told so.
    holders: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
struct Place {
    number: u64,
    places: Arc<Places>,
}

impl Places {
    /// Takes a place, if need be that of who has had one for longest. The receiver completes when it is taken away again.
    fn take(self: &Arc<Self>) -> (Place, oneshot::Receiver<()>) {
        let (told, evicted) = oneshot::channel();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.holders.len() >= self.most {
            taken.holders.pop_front();
        }
        let number = taken.next;
        taken.next += 1;
        taken.holders.push_back((number, told));
        (Place { number, places: Arc::clone(self) }, evicted)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.holders.retain(|(number, _)| *number != self.number);
    }
}

impl Bounded {
    /// Bounds a listener.
    pub fn new(listener: TcpListener) -> Self {
        Self::with(listener, CONNECTIONS, IDLE)
    }

    fn with(listener: TcpListener, most: usize, idle: Duration) -> Self {
        Self { listener, places: Arc::new(Places { most, taken: Mutex::default() }), idle }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        let (place, evicted) = self.places.take();
        let timer = Box::pin(sleep(self.idle));
        (Connection { stream, timer, idle: self.idle, evicted: Some(evicted), _place: place }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it was idle for too long, or has to give its place up.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    /// `None` once its place was taken away.
    evicted: Option<oneshot::Receiver<()>>,
    _place: Place,
}

impl Connection {
    /// Restarts the clock where bytes went, and ends the connection where none went for too long, or its place is gone.
    fn unless_idle<T>(&mut self, cx: &mut Context<'_>, went: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let evicted = self.evicted.as_mut().is_none_or(|evicted| Pin::new(evicted).poll(cx).is_ready());
        if evicted {
            self.evicted = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match went {
            Poll::Ready(result) => {
                self.timer.as_mut().reset(Instant::now() + self.idle);
                Poll::Ready(result)
            }
            Poll::Pending => self.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unless_idle(cx, read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.unless_idle(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.unless_idle(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn bounded(connections: usize, idle: Duration) -> (Bounded, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (Bounded::with(listener, connections, idle), addr)
    }

    #[tokio::test]
    async fn who_comes_gets_the_place_of_who_was_there_longest() {
        let (mut listener, addr) = bounded(2, IDLE).await;
        let mut clients = Vec::new();
        let mut connections = VecDeque::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(addr).await.unwrap());
            connections.push_back(listener.accept().await.0);
        }
        for _ in 0..2 {
            let mut evicted = connections.pop_front().unwrap();
            for _ in 0..2 {
                assert_eq!(evicted.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            }
        }
        for (client, connection) in clients[2..].iter_mut().zip(&mut connections) {
            client.write_all(b"x").await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), b'x');
        }
        // A place that was given back is nobody's.
        drop(connections.pop_front());
        clients.push(TcpStream::connect(addr).await.unwrap());
        let (mut newest, _) = listener.accept().await;
        for (client, connection) in clients[3..].iter_mut().zip([&mut connections[0], &mut newest]) {
            client.write_all(b"y").await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), b'y');
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_let_go() {
        let (mut listener, addr) = bounded(1, Duration::from_millis(30)).await;
        let mut client = TcpStream::connect(addr).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'x');
        assert_eq!(connection.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go() {
        let (mut listener, addr) = bounded(1, Duration::from_millis(30)).await;
        let _client = TcpStream::connect(addr).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let mut write = async || loop {
            if let Err(error) = connection.write_all(&[0; 1 << 16]).await {
                break error;
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), write()).await.expect("it ends");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

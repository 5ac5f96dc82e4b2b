//! Sockets, TLS, and connections that are served badly.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::{
    fault::Wire,
    handle::{Cluster, Door},
};
use crate::apiserver::pki::{Authority, Identity, Validity};

/// What a server says that speaks HTTP/1.0.
const HTTP_1_0: &[u8] =
    b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6\r\nContent-Type: text/html\r\n\r\n<html><body>It works!</body></html>\n";

/// What a server says that does not speak HTTP.
const NOT_HTTP: &[u8] = b"220 mail.example ESMTP ready\r\n";

/// The certificates that it may show.
pub(super) struct Identities {
    good: TlsAcceptor,
    foreign: TlsAcceptor,
    expired: TlsAcceptor,
}

impl Identities {
    /// Makes them, and writes the authority's to `ca.crt`.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let authority = Authority::new("kubernetes")?;
        fs::write(dir.join("ca.crt"), authority.certificate()).context("ca.crt")?;
        let foreign = Authority::new("somebody-else")?;
        Ok(Self {
            good: acceptor(&authority.server(Validity::Now)?)?,
            foreign: acceptor(&foreign.server(Validity::Now)?)?,
            expired: acceptor(&authority.server(Validity::Expired)?)?,
        })
    }

    fn of(&self, wire: Wire) -> &TlsAcceptor {
        match wire {
            Wire::WrongAuthority => &self.foreign,
            Wire::Expired => &self.expired,
            _ => &self.good,
        }
    }
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener for a runtime.
pub(super) fn adopt(runtime: &Runtime, listener: std::net::TcpListener) -> Result<TcpListener> {
    listener.set_nonblocking(true)?;
    let _guard = runtime.enter();
    Ok(TcpListener::from_std(listener)?)
}

/// The door that always works.
pub(super) async fn serve_back(listener: TcpListener, cluster: Arc<Cluster>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Door::Back, Arc::clone(&cluster)));
    }
}

/// The front door while it is open.
pub(super) struct Front(JoinHandle<()>);

impl Front {
    pub(super) fn start(
        runtime: &Runtime,
        listener: TcpListener,
        wire: Wire,
        cluster: Arc<Cluster>,
        identities: Arc<Identities>,
    ) -> Self {
        Self(runtime.spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            loop {
                cluster.thawed().await;
                let Ok((stream, _)) = listener.accept().await else { return };
                connections.spawn(connection(stream, wire, Arc::clone(&cluster), Arc::clone(&identities)));
                while connections.try_join_next().is_some() {}
            }
        }))
    }

    /// Closes the listener and every connection.
    pub(super) async fn stop(self) {
        self.0.abort();
        // Cancelled, as it should be.
        _ = self.0.await;
    }
}

async fn connection(mut stream: TcpStream, wire: Wire, cluster: Arc<Cluster>, identities: Arc<Identities>) {
    _ = stream.set_nodelay(true);
    match wire {
        Wire::Close => {}
        Wire::Plain => serve(stream, Door::Front, cluster).await,
        Wire::NotTls => say(&mut stream, NOT_HTTP).await,
        Wire::Https | Wire::WrongAuthority | Wire::Expired => {
            cluster.thawed().await;
            if let Ok(stream) = identities.of(wire).accept(stream).await {
                serve(stream, Door::Front, cluster).await;
            }
        }
        Wire::Http10 | Wire::NotHttp => {
            if let Ok(mut stream) = identities.of(wire).accept(stream).await {
                say(&mut stream, if wire == Wire::Http10 { HTTP_1_0 } else { NOT_HTTP }).await;
            }
        }
    }
}

/// Waits for a request, says something and goes.
async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &[u8]) {
    let mut request = [0; 4096];
    _ = timeout(Duration::from_secs(1), stream.read(&mut request)).await;
    _ = stream.write_all(words).await;
    _ = stream.shutdown().await;
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    cluster: Arc<Cluster>,
) {
    let service = service_fn(move |request| {
        let cluster = Arc::clone(&cluster);
        async move { Ok::<_, std::convert::Infallible>(cluster.answer(door, request).await) }
    });
    // A connection that breaks is the client's business.
    _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

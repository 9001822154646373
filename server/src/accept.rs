//! Connections: TLS, limits of time and number, and an orderly end.
//!
//! An own accept loop, because only it can bound how long a client takes over its headers, how long it does not read
//! what it asked for, and how many sockets there are. Must never let one client's connection cost another's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::http::Shared;
use crate::pace::Paced;
use crate::run::Limits;

/// Pause after a failed accept: out of file descriptors, most likely; they come back as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a request's head: 16,384 connections hold 256 MiB at most, where all of them are in the middle of one.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most bytes that are read from a connection at once, and of an answer that are gathered before they are written. A
/// connection that brought a fast body keeps so many until it ends, 2 GiB for 16,384 of them; a quarter costs a fast
/// upload twice the system's work.
pub(crate) const MAX_READ_BYTES: usize = 128 << 10;

/// Serves connections until `stop`, then lets those in flight finish.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    service: Shared,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            // A place first: who finds none waits in the system's own queue, which costs this process nothing.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let (Ok(place), Ok((socket, peer))) = (place, accepted) else {
            tracing::warn!("a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let open = Open::new(&service, place);
        let (router, tls, watcher, limits) = (router.clone(), tls.clone(), graceful.watcher(), limits.clone());
        tokio::spawn(async move {
            let ended = connection(socket, router, tls, watcher, &limits).await;
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(open);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that took longer than {:?} to finish were cut off", limits.drain);
    }
}

/// An open connection, counted.
struct Open {
    service: Shared,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(service: &Shared, place: OwnedSemaphorePermit) -> Self {
        service.connections.fetch_add(1, Ordering::Relaxed);
        Self { service: Arc::clone(service), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.service.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(
    socket: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    watcher: Watcher,
    limits: &Limits,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Its buffers are left to the kernel, which lets them grow with the path; a size set here would end that.
    socket.set_nodelay(true)?;
    match tls {
        None => http(socket, router, watcher, limits).await,
        Some(tls) => {
            let shaken = tokio::time::timeout(limits.head, tls.accept(socket)).await;
            let stream = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            http(stream, router, watcher, limits).await
        }
    }
}

async fn http<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    router: Router,
    watcher: Watcher,
    limits: &Limits,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // A client that asks and does not read would hold memory for as long as it likes.
    let stream = Paced::new(stream, limits.write);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_READ_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(served).await?;
    Ok(())
}

/// Tells whether an address is of this machine alone.
pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().is_loopback()
}

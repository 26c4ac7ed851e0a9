//! Connections: how many at once, and how long one may stay silent.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::stall::StallGuard;
use crate::config::ServerSettings;
use crate::telemetry::Metrics;

/// Bounds of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections at once, at least 1; further clients wait in the operating system's queue.
    pub connections: usize,
    /// Time for a request's headers to arrive, from the opening of the connection or the end of the last reply. It
    /// bounds how long a kept connection may idle, too: to the server both are a client that says nothing.
    pub header_timeout: Duration,
    /// Time that a client may take none of what it is sent.
    pub write_timeout: Duration,
}

impl From<&ServerSettings> for ConnectionLimits {
    fn from(settings: &ServerSettings) -> Self {
        Self {
            connections: settings.max_connections,
            header_timeout: Duration::from_secs(settings.header_timeout_s),
            write_timeout: Duration::from_secs(settings.write_timeout_s),
        }
    }
}

/// Serve until `stop` resolves; then take no new connection, close the idle ones, and return when the last reply is
/// out. Open connections are counted in `metrics`.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let open = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let next = async {
            // Before the accept, so that a client without a place costs no open file.
            let place = Arc::clone(&places).acquire_owned().await;
            (Listener::accept(&mut listener).await.0, place)
        };
        let (stream, place) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        // Blocks are small and must not wait for each other. Without it they arrive late, but they do.
        let _ = stream.set_nodelay(true);
        let stream = TokioIo::new(StallGuard::new(stream, limits.write_timeout));
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(stream, service));
        let counted = metrics.connection();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            // Behind the connection: with it went whatever its client still waited for.
            drop(counted);
        });
    }
    drop(listener);
    open.shutdown().await;
}

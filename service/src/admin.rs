//! The port for operators: `/healthz` (the process lives), `/readyz` (it is
//! ready for traffic, or what it waits for) and `/metrics`. It has a thread of
//! its own, so that it answers while the data path is busy.

use std::{io, net::SocketAddr, thread};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use crate::{Health, Metrics, Process};

/// Serves the port until `process` is told to stop, and returns the address that it
/// listens on.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(addr: SocketAddr, process: Process) -> io::Result<SocketAddr> {
    let Process { metrics, health, shutdown } = process;
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let stop = async move { shutdown.wait().await };
            let _ = axum::serve(listener, routes(health, metrics)).with_graceful_shutdown(stop).await;
        });
    })?;
    Ok(bound)
}

fn routes(health: Health, metrics: Metrics) -> Router {
    let ready = move || {
        let waiting = health.waiting();
        let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { (status, Json(waiting)).into_response() }
    };
    let text = move || {
        let text = metrics.text();
        async move {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
    };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).route("/metrics", get(text))
}

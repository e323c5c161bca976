//! A connection is made: the name is resolved, every address is checked, and those that are
//! allowed are connected to, a new one every 250 ms until one answers (Happy Eyeballs, RFC
//! 8305). The address that was checked is the address that is connected to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    connection::DialedStream,
    fault::{ExchangeFault, is_exhaustion},
    names::NameResolver,
    proxy::tunnel,
    target::EndpointOrigin,
    tls::H2,
};
use crate::webhook::guard::{Policy, RefusedTarget};

/// The time that an address has to answer before the next one is tried as well (RFC 8305,
/// section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Makes connections.
pub(super) struct Dialer {
    pub(super) policy: Policy,
    pub(super) names: NameResolver,
    pub(super) tls: TlsConnector,
    /// The proxy through which all connections go.
    pub(super) proxy: Option<EndpointOrigin>,
    /// The sockets that the process may still open for endpoints.
    pub(super) sockets: Arc<Semaphore>,
}

impl Dialer {
    /// Connects to `origin` before `deadline`. A name may take three quarters of the time.
    /// `make_room` is called when no socket is free.
    pub(super) async fn dial(
        &self,
        origin: &EndpointOrigin,
        deadline: Instant,
        make_room: impl Fn(),
    ) -> Result<DialedStream, ExchangeFault> {
        let refused = |why: RefusedTarget| ExchangeFault::Endpoint(why.to_string());
        self.policy.check_target(origin.tls, origin.port).map_err(refused)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let addresses = self.names.resolve(&origin.host, deadline - left / 4).await?;
        let allowed = self.policy.keep_allowed(addresses.iter().copied()).map_err(refused)?;
        let permit = match Arc::clone(&self.sockets).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                make_room();
                let waited = timeout_at(deadline, Arc::clone(&self.sockets).acquire_owned()).await;
                waited.ok().and_then(Result::ok).ok_or_else(|| {
                    ExchangeFault::Ours("all sockets for webhooks are in use (`webhook.max_connections`)".to_owned())
                })?
            }
        };
        let addresses: Vec<SocketAddr> =
            interleaved(&allowed).into_iter().map(|ip| SocketAddr::new(ip, origin.port)).collect();
        let (tcp, address) = match &self.proxy {
            None => connect(&addresses, deadline).await?,
            Some(proxy) => self.connect_through(proxy, &addresses, deadline).await?,
        };
        if !origin.tls {
            return Ok(DialedStream { stream: Box::new(tcp), http2: false, permit });
        }
        // A name that ends in a dot is the same name; a certificate never has the dot.
        let name = ServerName::try_from(origin.host.trim_end_matches('.').to_owned())
            .map_err(|error| ExchangeFault::Endpoint(format!("{} cannot be named in TLS: {error}", origin.host)))?;
        let tls = match timeout_at(deadline, self.tls.connect(name, tcp)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return Err(ExchangeFault::Endpoint(format!("TLS with {address} failed: {error}"))),
            Err(_) => {
                return Err(ExchangeFault::Endpoint(format!(
                    "connected to {address}, but its TLS handshake did not end in time"
                )));
            }
        };
        let http2 = tls.get_ref().1.alpn_protocol() == Some(H2);
        Ok(DialedStream { stream: Box::new(tls), http2, permit })
    }

    /// Connects through the proxy to the first of the addresses that it reaches.
    async fn connect_through(
        &self,
        proxy: &EndpointOrigin,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), ExchangeFault> {
        let unreachable =
            |fault: ExchangeFault| ExchangeFault::Ours(format!("the proxy is not reached (`webhook.proxy`): {fault}"));
        let own = self.names.resolve(&proxy.host, deadline).await.map_err(unreachable)?;
        let own: Vec<SocketAddr> = own.iter().map(|ip| SocketAddr::new(*ip, proxy.port)).collect();
        let mut refused = ExchangeFault::Endpoint("its name has no address".to_owned());
        for address in addresses {
            let (mut tcp, _) = connect(&own, deadline).await.map_err(unreachable)?;
            match timeout_at(deadline, tunnel(&mut tcp, *address)).await {
                Ok(Ok(())) => return Ok((tcp, *address)),
                Ok(Err(fault)) => refused = fault,
                Err(_) => {
                    return Err(ExchangeFault::Endpoint(format!(
                        "never connected to {address}: the proxy did not answer in time"
                    )));
                }
            }
        }
        Err(refused)
    }
}

/// Returns the addresses with their families in turn, that of the first one first.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (mut six, mut four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    if addresses.first().is_some_and(IpAddr::is_ipv4) {
        std::mem::swap(&mut six, &mut four);
    }
    let (first, second) = (six, four);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|n| [first.get(n), second.get(n)]).flatten().copied().take(MAX_ADDRESSES).collect()
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<(TcpStream, SocketAddr), ExchangeFault> {
    let errors = Mutex::new(Vec::new());
    match timeout_at(deadline, connect_any(addresses, &errors)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(fault)) => Err(fault),
        Err(_) => {
            let silent: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let mut reason = format!("never connected to {}: no answer in time", silent.join(", "));
            if let Some(error) = errors.lock().first() {
                reason = format!("{reason}; {error}");
            }
            Err(ExchangeFault::Endpoint(reason))
        }
    }
}

async fn connect_any(
    addresses: &[SocketAddr],
    errors: &Mutex<Vec<String>>,
) -> Result<(TcpStream, SocketAddr), ExchangeFault> {
    let mut waiting = addresses.iter().copied();
    let mut trying = FuturesUnordered::new();
    trying.extend(waiting.next().map(connect_one));
    loop {
        tokio::select! {
            tried = trying.next(), if !trying.is_empty() => match tried {
                Some((address, Ok(stream))) => return Ok((stream, address)),
                Some((address, Err(error))) if is_exhaustion(&error) => {
                    return Err(ExchangeFault::Ours(format!("no connection to {address} could be begun: {error}")));
                }
                Some((address, Err(error))) => {
                    errors.lock().push(format!("cannot connect to {address}: {error}"));
                    trying.extend(waiting.next().map(connect_one));
                }
                None => {}
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => trying.extend(waiting.next().map(connect_one)),
            else => return Err(ExchangeFault::Endpoint(errors.lock().join("; "))),
        }
    }
}

async fn connect_one(address: SocketAddr) -> (SocketAddr, std::io::Result<TcpStream>) {
    let connected = TcpStream::connect(address).await;
    if let Ok(stream) = &connected {
        // Requests are written whole, so nothing is gained by holding a segment back. The
        // connection works without.
        let _ = stream.set_nodelay(true);
    }
    (address, connected)
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// Returns a listener that lets no further connection begin: its queue is full.
    fn silent(address: &str) -> (Socket, Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address.into());
                socket
            })
            .collect();
        (listener, fill, address)
    }

    fn within(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_use_up_the_time() {
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().unwrap();
        let (_listener, _queue, silent) = silent("127.0.0.1:0");
        let (_, address) = connect(&[silent, silent, good], within(10)).await.unwrap();
        assert_eq!(address, good);
    }

    #[tokio::test]
    async fn a_refused_address_leads_to_the_next_at_once() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().unwrap();
        let (_, address) = connect(&[closed, good], within(10)).await.unwrap();
        assert_eq!(address, good);
        let Err(ExchangeFault::Endpoint(reason)) = connect(&[closed, closed], within(10)).await else {
            panic!("connected")
        };
        assert!(reason.starts_with(&format!("cannot connect to {closed}: Connection refused")), "{reason}");
    }

    #[tokio::test]
    async fn who_never_connected_is_named() {
        let (_listener, _queue, silent) = silent("127.0.0.1:0");
        let deadline = Instant::now() + Duration::from_millis(50);
        let Err(ExchangeFault::Endpoint(reason)) = connect(&[silent], deadline).await else { panic!("connected") };
        assert_eq!(reason, format!("never connected to {silent}: no answer in time"));
    }

    #[test]
    fn families_take_turns() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            interleaved(&ips(&["::1", "::2", "1.1.1.1", "1.1.1.2", "::3"])),
            ips(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"])
        );
        assert_eq!(interleaved(&ips(&["1.1.1.1", "::1"])), ips(&["1.1.1.1", "::1"]));
        let many: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([1, 1, 1, n])).collect();
        assert_eq!(interleaved(&many).len(), MAX_ADDRESSES);
    }
}

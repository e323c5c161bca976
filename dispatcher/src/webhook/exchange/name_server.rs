//! A name server for tests: it counts questions, and answers as the test says.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use tokio::net::UdpSocket;

use super::names::NameResolver;

/// The length of the fixed part of a DNS message (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// The types of records with addresses.
const A: u8 = 1;
const AAAA: u8 = 28;

pub(super) struct NameServer {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

/// A question for the addresses of a name.
pub(super) struct Question<'a>(&'a [u8]);

impl NameServer {
    /// Starts a name server. Questions that get no answer stay open.
    pub(super) async fn start(answer: impl Fn(&Question<'_>) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&questions);
        tokio::spawn(async move {
            let mut question = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut question).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answer(&Question(&question[..length])) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, questions }
    }

    /// Returns the number of questions so far.
    pub(super) fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    /// Returns a resolver that asks this server alone.
    pub(super) fn names(&self) -> NameResolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.address.port();
        let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
        NameResolver::configured(ResolverConfig::from_parts(None, Vec::new(), vec![server]))
    }
}

impl Question<'_> {
    fn name_end(&self) -> usize {
        HEADER + self.0[HEADER..].iter().position(|byte| *byte == 0).unwrap() + 1
    }

    /// Returns the first label of the name, in lower case.
    pub(super) fn name(&self) -> String {
        let length = usize::from(self.0[HEADER]);
        String::from_utf8_lossy(&self.0[HEADER + 1..=HEADER + length]).to_ascii_lowercase()
    }

    /// Returns the answer with those of the addresses that are of the family that is asked
    /// for. They hold for a minute.
    pub(super) fn answer(&self, addresses: &[IpAddr]) -> Vec<u8> {
        let name_end = self.name_end();
        let record_type = self.0[name_end + 1];
        let of_family = |address: &IpAddr| if address.is_ipv4() { record_type == A } else { record_type == AAAA };
        let found: Vec<IpAddr> = addresses.iter().copied().filter(of_family).collect();
        let mut answer = self.0[..name_end + 4].to_vec();
        answer[2] = 0x81;
        // A name without any address does not exist.
        answer[3] = if addresses.is_empty() { 0x83 } else { 0x80 };
        answer[4..HEADER].copy_from_slice(&[0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
        for address in found {
            answer.extend([0xc0, 12, 0, record_type, 0, 1, 0, 0, 0, 60]);
            match address {
                IpAddr::V4(four) => {
                    answer.extend([0, 4]);
                    answer.extend(four.octets());
                }
                IpAddr::V6(six) => {
                    answer.extend([0, 16]);
                    answer.extend(six.octets());
                }
            }
        }
        answer
    }
}

//! Asking STUN servers where they see this node's UDP port, in rounds: without I/O, clock or randomness of its own.

use std::{net::SocketAddr, time::Duration};

use mesh_core::stun::{self, HEAD};

use super::candidates::canonical;

/// Another round while somebody is not reached directly: no NAT forgets so soon that the answer of the last one is wrong.
const EVERY: Duration = Duration::from_secs(25);
/// What happens at once is one reason for one round.
const APART: Duration = Duration::from_secs(1);
/// A request without an answer is repeated after this, twice as long each time (RFC 8489, section 6.2.1, for fewer tries).
const REPEAT: Duration = Duration::from_millis(500);
const TRIES: u32 = 4;

/// The servers, and what they said.
#[derive(Debug)]
pub(super) struct Stun {
    servers: Vec<Server>,
    /// When the round under way began.
    round: Option<Duration>,
    /// A round is due then.
    due: Option<Duration>,
}

#[derive(Debug, Default)]
struct Server {
    name: String,
    addresses: Vec<SocketAddr>,
    /// Requests of this round that were sent.
    tries: u32,
    /// When the next one is.
    due: Option<Duration>,
    /// Those that may still be answered: to whom, and by what.
    asked: Vec<(SocketAddr, [u8; 12])>,
    said: Option<SocketAddr>,
    /// Its failure was told, and nothing good came since.
    has_failed: bool,
}

impl Server {
    /// Says once that it is of no use.
    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(server = self.name, error, "a STUN server does not say where it sees this node");
        }
    }
}

impl Stun {
    /// `HOST:PORT` each.
    pub(super) fn new(names: Vec<String>) -> Self {
        let server = |name| Server { name, ..Server::default() };
        Self { servers: names.into_iter().map(server).collect(), round: None, due: None }
    }

    /// Asks anew, because this node may be seen elsewhere now.
    pub(super) fn ask(&mut self, now: Duration) {
        if !self.servers.is_empty() {
            self.due = Some(self.round.map_or(now, |round| now.max(round + APART)));
        }
    }

    /// While it is wanted, it is asked for again and again.
    pub(super) fn want(&mut self, is_wanted: bool, now: Duration) {
        if !is_wanted || self.servers.is_empty() {
            return;
        }
        let next = self.round.map_or(now, |round| round + EVERY);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    /// Begins a round if one is due: the names to resolve, by the number of the server. Answered by [`Stun::resolved`].
    pub(super) fn begin(&mut self, now: Duration) -> Vec<(usize, String)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        (self.round, self.due) = (Some(now), None);
        for server in &mut self.servers {
            (server.tries, server.due) = (0, None);
            server.asked.clear();
        }
        self.servers.iter().map(|server| server.name.clone()).enumerate().collect()
    }

    /// Where the server is, or why that is not known: then it is where it was the last time.
    pub(super) fn resolved(&mut self, number: usize, found: Result<Vec<SocketAddr>, String>, now: Duration) {
        let Some(server) = self.servers.get_mut(number) else { return };
        match found {
            Ok(addresses) if !addresses.is_empty() => server.addresses = addresses,
            Ok(_) => server.complain("its name has no address"),
            Err(error) => server.complain(&error),
        }
        if server.tries == 0 && !server.addresses.is_empty() {
            server.due = Some(now);
        }
    }

    /// The next request to send; `transaction` is random, another each time.
    pub(super) fn poll_transmit(&mut self, now: Duration, transaction: [u8; 12]) -> Option<(SocketAddr, [u8; HEAD])> {
        let server = self.servers.iter_mut().find(|server| server.due.is_some_and(|due| due <= now))?;
        let to = *server.addresses.get(server.tries as usize % server.addresses.len().max(1))?;
        server.asked.push((canonical(to), transaction));
        server.due = (server.tries + 1 < TRIES).then(|| now + REPEAT * (1 << server.tries));
        server.tries += 1;
        Some((to, stun::request(transaction)))
    }

    /// Nothing can be sent now: the next round is another chance.
    pub(super) fn pause(&mut self) {
        for server in &mut self.servers {
            server.due = None;
        }
    }

    /// A datagram that looks like STUN's came. `true` if this node is seen elsewhere than before.
    pub(super) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let from = canonical(from);
        for server in &mut self.servers {
            let answer = server.asked.iter().filter(|(to, _)| *to == from);
            let answer = answer.map(|(_, transaction)| stun::response(datagram, *transaction));
            match answer.reduce(|first, second| first.or(second)) {
                None | Some(Err(stun::StunError::Transaction)) => {}
                Some(Err(error)) => {
                    server.complain(&error.to_string());
                    server.due = None;
                    server.asked.clear();
                }
                Some(Ok(seen)) => {
                    (server.due, server.has_failed) = (None, false);
                    server.asked.clear();
                    return server.said.replace(canonical(seen)) != Some(canonical(seen));
                }
            }
        }
        false
    }

    /// Where this node is seen, in the order of the servers.
    pub(super) fn seen(&self) -> Vec<SocketAddr> {
        self.servers.iter().filter_map(|server| server.said).collect()
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.servers.iter().filter_map(|server| server.due).chain(self.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "192.0.2.1:3478";

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A binding response with an XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
    fn response(transaction: [u8; 12], seen: std::net::SocketAddrV4) -> Vec<u8> {
        let mut bytes = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend(transaction);
        bytes.extend([0, 0x20, 0, 8, 0, 1]);
        bytes.extend((seen.port() ^ 0x2112).to_be_bytes());
        bytes.extend((seen.ip().to_bits() ^ 0x2112_a442).to_be_bytes());
        bytes
    }

    fn begun() -> Stun {
        let mut stun = Stun::new(vec![SERVER.to_owned()]);
        stun.ask(seconds(1));
        assert_eq!(stun.poll_timeout(), Some(seconds(1)));
        assert_eq!(stun.begin(seconds(1)), [(0, SERVER.to_owned())]);
        stun.resolved(0, Ok(vec![SERVER.parse().unwrap()]), seconds(1));
        stun
    }

    #[test]
    fn an_answer_counts_by_its_number_and_its_sender() {
        let mut stun = begun();
        let server: SocketAddr = SERVER.parse().unwrap();
        let (to, request) = stun.poll_transmit(seconds(1), [7; 12]).unwrap();
        assert_eq!((to, &request[8..]), (server, &[7; 12][..]));
        let answer = response([7; 12], "203.0.113.9:4321".parse().unwrap());
        assert!(!stun.handle_datagram("192.0.2.2:3478".parse().unwrap(), &answer));
        assert!(!stun.handle_datagram(server, &response([8; 12], "203.0.113.8:4321".parse().unwrap())));
        assert_eq!(stun.seen(), []);
        assert!(stun.handle_datagram("[::ffff:192.0.2.1]:3478".parse().unwrap(), &answer));
        assert_eq!(stun.seen(), ["203.0.113.9:4321".parse().unwrap()]);
        assert!(!stun.handle_datagram(server, &answer), "nobody waits for it any more");
        assert_eq!(stun.poll_timeout(), None);
    }

    #[test]
    fn a_request_is_repeated_a_few_times_and_a_round_is_not_begun_twice_at_once() {
        let mut stun = begun();
        let mut sent = Vec::new();
        while let Some(at) = stun.poll_timeout() {
            assert!(stun.poll_transmit(at, [sent.len() as u8; 12]).is_some());
            sent.push(at);
        }
        let ms = Duration::from_millis;
        assert_eq!(sent, [ms(1000), ms(1500), ms(2500), ms(4500)]);
        stun.want(false, seconds(5));
        assert_eq!(stun.poll_timeout(), None);
        stun.want(true, seconds(5));
        assert_eq!(stun.poll_timeout(), Some(seconds(26)));
        stun.ask(seconds(6));
        stun.begin(seconds(6));
        stun.ask(seconds(6));
        assert_eq!(stun.poll_timeout(), Some(seconds(7)));
    }

    #[test]
    fn without_servers_nothing_is_asked() {
        let mut stun = Stun::new(Vec::new());
        stun.ask(seconds(1));
        stun.want(true, seconds(1));
        assert_eq!(stun.poll_timeout(), None);
    }
}

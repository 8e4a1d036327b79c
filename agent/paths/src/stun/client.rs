//! Asking STUN servers where they see this node's UDP port, in rounds: without I/O, clock or randomness of its own.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{HEAD, StunError};
use crate::{machine::canonical, rng::Transactions};

/// Another round while a peer is not reached directly: no NAT forgets so soon that the answer of the last one is wrong.
const EVERY: Duration = Duration::from_secs(25);
/// What happens at once is one reason for one round.
const APART: Duration = Duration::from_secs(1);
/// A request without an answer is repeated after this, twice as long each time (RFC 8489, section 6.2.1, for fewer tries).
const REPEAT: Duration = Duration::from_millis(500);
const TRIES: u32 = 4;

/// The servers, and what they said.
#[derive(Debug)]
pub(crate) struct Client {
    servers: Vec<Server>,
    /// When the round under way began.
    round: Option<Duration>,
    /// A round is due then.
    due: Option<Duration>,
    transactions: Transactions,
}

#[derive(Debug, Default)]
struct Server {
    name: String,
    /// IPv4 and IPv6: this node is seen elsewhere by each.
    families: [Family; 2],
    /// Its failure was reported, and nothing good came since.
    has_failed: bool,
}

/// One server at its addresses of one family.
#[derive(Debug, Default)]
struct Family {
    /// Every round begins with the first.
    addresses: Vec<SocketAddr>,
    /// Requests of this round that were sent.
    tries: u32,
    /// When the next one is.
    due: Option<Duration>,
    /// Those that may still be answered: to whom, and by what.
    asked: Vec<(SocketAddr, [u8; 12])>,
    said: Option<SocketAddr>,
}

impl Server {
    /// Says once that it is of no use.
    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(server = self.name, error, "a STUN server does not say where it sees this node");
        }
    }
}

impl Family {
    /// No server is asked any more, until the next round.
    fn finish(&mut self) {
        self.due = None;
        self.asked.clear();
    }

    /// What the datagram says, if it answers one of the requests.
    fn answer(&self, from: SocketAddr, datagram: &[u8]) -> Option<Result<SocketAddr, StunError>> {
        let asked = self.asked.iter().filter(|(to, _)| *to == from);
        let answers = asked.map(|(_, transaction)| super::response(datagram, *transaction));
        answers.reduce(|first, second| first.or(second)).filter(|answer| *answer != Err(StunError::Transaction))
    }
}

impl Client {
    /// `HOST:PORT` each.
    pub(crate) fn new(names: Vec<String>, transactions: Transactions) -> Self {
        let server = |name| Server { name, ..Server::default() };
        Self { servers: names.into_iter().map(server).collect(), round: None, due: None, transactions }
    }

    /// Asks anew, because this node may be seen elsewhere now.
    pub(crate) fn ask(&mut self, now: Duration) {
        if !self.servers.is_empty() {
            self.due = Some(self.round.map_or(now, |round| now.max(round + APART)));
        }
    }

    /// While it is wanted, it is asked for again and again.
    pub(crate) fn want(&mut self, is_wanted: bool, now: Duration) {
        if !is_wanted || self.servers.is_empty() {
            return;
        }
        let next = self.round.map_or(now, |round| round + EVERY);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    /// Begins a round if one is due: the names to resolve, by the number of the server. Answered by [`Client::resolved`].
    pub(crate) fn begin(&mut self, now: Duration) -> Vec<(usize, String)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        (self.round, self.due) = (Some(now), None);
        for family in self.families_mut() {
            family.tries = 0;
            family.finish();
        }
        self.servers.iter().map(|server| server.name.clone()).enumerate().collect()
    }

    /// Where the server is, or why that is not known: then it is where it was the last time.
    pub(crate) fn resolved(&mut self, number: usize, found: Result<Vec<SocketAddr>, String>, now: Duration) {
        let Some(server) = self.servers.get_mut(number) else { return };
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().map(canonical).partition(SocketAddr::is_ipv4);
                [server.families[0].addresses, server.families[1].addresses] = [v4, v6];
            }
            Ok(_) => server.complain("its name has no address"),
            Err(error) => server.complain(&error),
        }
        for family in server.families.iter_mut().filter(|family| family.tries == 0 && !family.addresses.is_empty()) {
            family.due = Some(now);
        }
    }

    /// The next request to send. A family asks its first address first, and after each that does not answer the next.
    pub(crate) fn poll_transmit(&mut self, now: Duration) -> Option<(SocketAddr, [u8; HEAD])> {
        let mut families = self.servers.iter_mut().flat_map(|server| &mut server.families);
        let family = families.find(|family| family.due.is_some_and(|due| due <= now))?;
        let transaction = self.transactions.next_id();
        let to = *family.addresses.get(family.tries as usize % family.addresses.len().max(1))?;
        family.asked.push((to, transaction));
        family.due = (family.tries + 1 < TRIES).then(|| now + REPEAT * (1 << family.tries));
        family.tries += 1;
        Some((to, super::request(transaction)))
    }

    /// Nothing can be sent now: the next round is another chance.
    pub(crate) fn pause(&mut self) {
        for family in self.families_mut() {
            family.due = None;
        }
    }

    /// The servers that may still answer.
    pub(crate) fn asked(&self) -> BTreeSet<SocketAddr> {
        let asked = self.servers.iter().flat_map(|server| &server.families).flat_map(|family| &family.asked);
        asked.map(|(to, _)| *to).collect()
    }

    /// A datagram that looks like STUN's came. `true` if this node is seen elsewhere than before.
    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let from = canonical(from);
        for server in &mut self.servers {
            let answers = server.families.iter_mut().find_map(|family| Some((family.answer(from, datagram)?, family)));
            match answers {
                None => {}
                Some((Err(error), family)) => {
                    family.finish();
                    server.complain(&error.to_string());
                }
                Some((Ok(seen), family)) => {
                    family.finish();
                    let is_elsewhere = family.said.replace(canonical(seen)) != Some(canonical(seen));
                    server.has_failed = false;
                    return is_elsewhere;
                }
            }
        }
        false
    }

    /// Where this node is seen, in the order of the servers, by IPv4 before IPv6.
    pub(crate) fn seen(&self) -> Vec<SocketAddr> {
        self.servers.iter().flat_map(|server| &server.families).filter_map(|family| family.said).collect()
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let families = self.servers.iter().flat_map(|server| &server.families);
        families.filter_map(|family| family.due).chain(self.due).min()
    }

    fn families_mut(&mut self) -> impl Iterator<Item = &mut Family> {
        self.servers.iter_mut().flat_map(|server| &mut server.families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

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

    fn client(servers: &[&str]) -> Client {
        Client::new(servers.iter().map(|&server| server.to_owned()).collect(), Seed::new([7; 32]).transactions())
    }

    /// The transaction of a request.
    fn id(request: [u8; HEAD]) -> [u8; 12] {
        *request.last_chunk().unwrap()
    }

    fn begun() -> Client {
        let mut stun = client(&[SERVER]);
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
        let (to, request) = stun.poll_transmit(seconds(1)).unwrap();
        assert_eq!(to, server);
        let answer = response(id(request), "203.0.113.9:4321".parse().unwrap());
        assert!(!stun.handle_datagram("192.0.2.2:3478".parse().unwrap(), &answer));
        assert!(!stun.handle_datagram(server, &response([8; 12], "203.0.113.8:4321".parse().unwrap())));
        assert_eq!(stun.seen(), []);
        assert!(stun.handle_datagram("[::ffff:192.0.2.1]:3478".parse().unwrap(), &answer));
        assert_eq!(stun.seen(), ["203.0.113.9:4321".parse().unwrap()]);
        assert!(!stun.handle_datagram(server, &answer), "it is not waited for any more");
        assert_eq!(stun.poll_timeout(), None);
    }

    #[test]
    fn a_request_is_repeated_a_few_times_and_a_round_is_not_begun_twice_at_once() {
        let mut stun = begun();
        let mut sent = Vec::new();
        while let Some(at) = stun.poll_timeout() {
            assert!(stun.poll_transmit(at).is_some());
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
    fn it_is_asked_by_each_family_and_each_answer_is_kept() {
        let mut stun = client(&["stun.test:3478"]);
        stun.ask(seconds(1));
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let found = ["[2001:db8::1]:3478", "192.0.2.1:3478", "[2001:db8::2]:3478", "192.0.2.2:3478"].map(at);
        let mut requests = [(at("192.0.2.9:1"), [0; HEAD]); 2];
        for round in [seconds(1), seconds(40)] {
            stun.want(true, round);
            let [(number, _)] = stun.begin(round)[..] else { panic!("one server") };
            stun.resolved(number, Ok(found.to_vec()), round);
            requests = [(); 2].map(|()| stun.poll_transmit(round).unwrap());
            let asked = requests.map(|(to, _)| to);
            assert_eq!(asked, [found[1], found[0]], "the first of each, in every round");
            assert_eq!(stun.poll_transmit(round), None);
            assert_eq!(stun.asked(), asked.into_iter().collect::<BTreeSet<_>>());
        }
        let [seen, other] = ["203.0.113.9:4321", "203.0.113.9:9"].map(|at| at.parse().unwrap());
        assert!(stun.handle_datagram(found[1], &response(id(requests[0].1), seen)));
        assert_eq!((stun.seen(), stun.asked()), (vec![SocketAddr::V4(seen)], BTreeSet::from([found[0]])));
        // The other family goes on, with its next address, and takes nothing from what the first said.
        let again = stun.poll_timeout().unwrap();
        assert_eq!(stun.poll_transmit(again).unwrap().0, found[2]);
        assert!(stun.handle_datagram(found[0], &response(id(requests[1].1), other)));
        assert_eq!((stun.seen(), stun.asked()), (vec![SocketAddr::V4(seen), SocketAddr::V4(other)], BTreeSet::new()));
        assert_eq!(stun.poll_timeout(), None);
    }

    #[test]
    fn without_servers_nothing_is_asked() {
        let mut stun = client(&[]);
        stun.ask(seconds(1));
        stun.want(true, seconds(1));
        assert_eq!((stun.poll_timeout(), stun.asked()), (None, BTreeSet::new()));
    }
}

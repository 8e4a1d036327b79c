//! A peer that handles its keypairs as wireguard-go and the kernel do, which keep fewer sessions than this device.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::key::{PrivateKey, PublicKey};
use crate::noise::{
    HEADER, INITIATION_LEN, Identity, Initiation, Message, OVERHEAD, Opened, RESPONSE_LEN, SentInitiation, Session,
    Timestamp, classify, open_one,
};

const REKEY_TIMEOUT: Duration = Duration::from_millis(5167);
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const NO_REPLY: Duration = Duration::from_secs(15);

/// It has three keypairs at most, moves its endpoint to where the last authentic message came from, and initiates again after
/// 5 s.
pub(super) struct Counterpart {
    identity: Identity,
    peer: PublicKey,
    endpoint: Option<SocketAddr>,
    origin: (Instant, SystemTime),
    index: u32,
    /// The last initiation that was sent, without a response so far.
    sent: Option<Box<SentInitiation>>,
    last_initiation: Option<Timestamp>,
    previous: Option<Keypair>,
    current: Option<Keypair>,
    /// That of the last response, until something comes in it.
    next: Option<Keypair>,
    staged: VecDeque<Vec<u8>>,
    retry: Option<Instant>,
    /// When data came that nothing was sent after, and the other way around.
    unacknowledged: Option<Instant>,
    unanswered: Option<Instant>,
    pub(super) transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) delivered: VecDeque<Vec<u8>>,
    /// Data in keypairs that it does not have any more.
    pub(super) refused: usize,
}

struct Keypair {
    session: Session,
    initiator: bool,
    since: Instant,
}

impl Counterpart {
    pub(super) fn new(
        private: PrivateKey,
        peer: PublicKey,
        endpoint: Option<SocketAddr>,
        origin: (Instant, SystemTime),
    ) -> Self {
        Self {
            identity: Identity::new(private),
            peer,
            endpoint,
            origin,
            index: 0,
            sent: None,
            last_initiation: None,
            previous: None,
            current: None,
            next: None,
            staged: VecDeque::new(),
            retry: None,
            unacknowledged: None,
            unanswered: None,
            transmits: VecDeque::new(),
            delivered: VecDeque::new(),
            refused: 0,
        }
    }

    pub(super) fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.staged.push_back(packet.to_vec());
        self.flush(now);
    }

    pub(super) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        match classify(bytes) {
            Some(Message::Initiation) => self.respond(from, bytes, now),
            Some(Message::Response { .. }) => self.complete(from, bytes, now),
            Some(Message::Data { receiver }) => self.open(from, receiver, bytes, now),
            Some(Message::Cookie { .. }) | None => {}
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let keepalive = self.unacknowledged.map(|since| since + KEEPALIVE_AFTER);
        let no_reply = self.unanswered.map(|since| since + NO_REPLY);
        [self.retry, keepalive, no_reply].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.retry.is_some_and(|at| now >= at) {
            self.retry = None;
            self.initiate(now);
        }
        if self.unanswered.take_if(|since| now >= *since + NO_REPLY).is_some() {
            self.initiate(now);
        }
        if self.unacknowledged.take_if(|since| now >= *since + KEEPALIVE_AFTER).is_some() {
            self.seal(&[]);
        }
    }

    fn initiate(&mut self, now: Instant) {
        if self.retry.is_some() {
            return;
        }
        let Some(endpoint) = self.endpoint else { return };
        self.index += 1;
        let timestamp = self.identity.timestamp(self.origin.1 + (now - self.origin.0));
        let mut message = [0; INITIATION_LEN];
        self.sent = SentInitiation::new(&self.identity, &self.peer, self.index, timestamp, None, &mut message);
        self.retry = Some(now + REKEY_TIMEOUT);
        self.transmits.push_back((endpoint, message.to_vec()));
    }

    fn respond(&mut self, from: SocketAddr, message: &[u8], now: Instant) {
        let Some(initiation) = Initiation::read(&self.identity, message).and_then(|read| read.prove(&self.identity))
        else {
            return;
        };
        let timestamp = initiation.timestamp();
        if self.last_initiation.is_some_and(|last| timestamp <= last) {
            return;
        }
        (self.last_initiation, self.endpoint) = (Some(timestamp), Some(from));
        self.index += 1;
        let mut response = [0; RESPONSE_LEN];
        let answer = initiation.respond(None, self.index, None, &mut response).unwrap();
        self.next = Some(Keypair { session: answer.session, initiator: false, since: now });
        self.previous = None;
        self.unacknowledged = None;
        self.transmits.push_back((from, response.to_vec()));
    }

    fn complete(&mut self, from: SocketAddr, message: &[u8], now: Instant) {
        let Some(session) = self.sent.as_ref().and_then(|sent| sent.complete(&self.identity, None, message)) else {
            return;
        };
        (self.sent, self.retry, self.endpoint, self.unanswered) = (None, None, Some(from), None);
        self.previous = self.next.take().or(self.current.take());
        self.current = Some(Keypair { session, initiator: true, since: now });
        if self.staged.is_empty() {
            self.seal(&[]);
        }
        self.flush(now);
    }

    fn open(&mut self, from: SocketAddr, receiver: u32, bytes: &[u8], now: Instant) {
        let is = |keypair: &Option<Keypair>| keypair.as_ref().is_some_and(|it| it.session.receiver() == receiver);
        let found = [&self.current, &self.previous, &self.next].into_iter().find(|keypair| is(keypair));
        let mut message = bytes.to_vec();
        let Some(opened) = found.and_then(Option::as_ref).and_then(|it| open_one(&it.session, &mut message)) else {
            self.refused += 1;
            return;
        };
        (self.endpoint, self.unanswered) = (Some(from), None);
        if is(&self.next) {
            self.previous = self.current.take();
            self.current = self.next.take();
            (self.sent, self.retry) = (None, None);
            self.flush(now);
        }
        if opened != Opened::Keepalive {
            self.unacknowledged.get_or_insert(now);
        }
        // What is no packet goes nowhere.
        if let Opened::Packet { len, .. } = opened {
            self.delivered.push_back(message[HEADER..][..len].to_vec());
        }
    }

    fn flush(&mut self, now: Instant) {
        let Some(age) = self.current.as_ref().map(|current| now - current.since) else {
            if !self.staged.is_empty() {
                self.initiate(now);
            }
            return;
        };
        if age >= REJECT_AFTER {
            self.current = None;
            return self.initiate(now);
        }
        while let Some(packet) = self.staged.pop_front() {
            self.seal(&packet);
            self.unanswered.get_or_insert(now);
        }
        if age >= REKEY_AFTER && self.current.as_ref().is_some_and(|current| current.initiator) {
            self.initiate(now);
        }
    }

    fn seal(&mut self, packet: &[u8]) {
        let (Some(current), Some(endpoint)) = (&self.current, self.endpoint) else { return };
        let mut message = vec![0; packet.len() + OVERHEAD];
        message[HEADER..][..packet.len()].copy_from_slice(packet);
        current.session.seal(&mut message, packet.len()).unwrap();
        self.unacknowledged = None;
        self.transmits.push_back((endpoint, message));
    }
}

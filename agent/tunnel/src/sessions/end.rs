//! One of two peers, without device and sockets: it makes messages and reads those of the other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use zeroize::Zeroizing;

use crate::indices::Indices;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::{HEADER, Identity, Initiation, Message, OVERHEAD, Opened, RESPONSE_LEN, classify, open_one};
use crate::sessions::{Sessions, Target};

/// One end. Its private key is fixed; ephemeral keys are random.
pub(crate) struct End {
    pub(crate) identity: Identity,
    pub(crate) psk: Option<PresharedKey>,
    pub(crate) sessions: Sessions,
    peer: PublicKey,
}

/// The result of a message that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// An initiation, and the answer to it.
    Initiation(Vec<u8>),
    /// A response: a session runs.
    Established,
    Cookie,
    Keepalive,
    Packet(Vec<u8>, IpAddr),
}

impl End {
    /// The end whose key is made of the byte `own`, towards the one of `other`; the psk is made of its byte as well.
    pub(crate) fn new(own: u8, other: u8, psk: Option<u8>) -> Self {
        Self {
            identity: Identity::new(private(own)),
            psk: psk.map(|byte| PresharedKey::from_bytes(Zeroizing::new([byte; 32]))),
            sessions: Sessions::new(own.into(), Arc::new(Indices::with_key(own.into()))),
            peer: private(other).public_key(),
        }
    }

    /// As [`Self::new`], on a device with these indices, where its slot is `own`.
    pub(crate) fn with_indices(own: u8, other: u8, indices: &Arc<Indices>) -> Self {
        let sessions = Sessions::new(own.into(), Arc::clone(indices));
        Self { sessions, ..Self::new(own, other, None) }
    }

    /// An initiation.
    pub(crate) fn initiate(&mut self) -> Vec<u8> {
        self.ask_at(nowhere())
    }

    /// An initiation that goes there.
    pub(crate) fn ask_at(&mut self, target: Target) -> Vec<u8> {
        let asked = self.sessions.initiate(&self.identity, &self.peer, target, Instant::now(), SystemTime::now());
        asked.expect("no initiation").to_vec()
    }

    /// Processes a message that passed [`Identity::is_addressed`], as the device does; `None` where it refuses it.
    pub(crate) fn take(&mut self, message: &[u8]) -> Option<Taken> {
        let now = Instant::now();
        match classify(message)? {
            Message::Initiation => {
                let initiation = Initiation::read(&self.identity, message)?;
                if initiation.initiator() != self.peer {
                    return None;
                }
                let (proved, mut answer) = (initiation.prove(&self.identity)?, [0; RESPONSE_LEN]);
                self.sessions.respond(proved, self.psk.as_ref(), None, now, &mut answer)?;
                Some(Taken::Initiation(answer.to_vec()))
            }
            Message::Response { receiver } => {
                self.sessions.complete(&self.identity, self.psk.as_ref(), receiver, message, now)?;
                Some(Taken::Established)
            }
            Message::Cookie { receiver } => {
                self.sessions.take_cookie(&self.peer, receiver, message, now)?;
                Some(Taken::Cookie)
            }
            Message::Data { receiver } => {
                let session = self.sessions.by_receiver(receiver, now)?;
                let mut message = message.to_vec();
                let opened = open_one(&session, &mut message)?;
                self.sessions.confirm(receiver);
                match opened {
                    Opened::Keepalive => Some(Taken::Keepalive),
                    Opened::Packet { len, source } => Some(Taken::Packet(message[HEADER..][..len].to_vec(), source)),
                    Opened::PathMtu(_) => None,
                }
            }
        }
    }

    /// Seals a packet; `None` where there is no session to seal it in.
    pub(crate) fn seal(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut message = vec![0; packet.len() + OVERHEAD];
        message[HEADER..][..packet.len()].copy_from_slice(packet);
        let len = self.sessions.sealing(Instant::now())?.seal(&mut message, packet.len())?;
        assert_eq!(len, message.len());
        Some(message)
    }

    /// Whether there is a session to seal in.
    pub(crate) fn has_session(&self) -> bool {
        self.sessions.sealing(Instant::now()).is_some()
    }

    /// A whole handshake that this end initiates; true where both ends have a session afterwards.
    pub(crate) fn shake_hands(&mut self, other: &mut Self) -> bool {
        let Some(Taken::Initiation(answer)) = other.take(&self.initiate()) else {
            panic!("a genuine initiation was refused")
        };
        if self.take(&answer).is_none() {
            return false;
        }
        let Some(confirmation) = self.seal(&[]) else { panic!("a session that seals nothing") };
        other.take(&confirmation) == Some(Taken::Keepalive) && self.has_session() && other.has_session()
    }

    /// Whether an empty message of each end is accepted by the other.
    pub(crate) fn is_joined(&mut self, other: &mut Self) -> bool {
        let forth = self.seal(&[]).and_then(|message| other.take(&message));
        let back = other.seal(&[]).and_then(|message| self.take(&message));
        (forth, back) == (Some(Taken::Keepalive), Some(Taken::Keepalive))
    }
}

/// The target of initiations that are not sent.
pub(crate) const fn nowhere() -> Target {
    Target::Endpoint(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}

pub(crate) fn private(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(Zeroizing::new([byte; 32]))
}

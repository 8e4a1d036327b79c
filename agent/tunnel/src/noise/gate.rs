//! The device's key, and what follows from it alone: which handshake messages are for it.

use std::time::SystemTime;

use mesh_aead::Method;

use super::cookie::{self, COOKIE_LABEL, MAC1_LABEL};
use super::timestamp::{Clock, Timestamp};
use crate::key::{PrivateKey, PublicKey};

/// The device's private key and the state derived from it alone.
pub(crate) struct Identity {
    private: PrivateKey,
    public: PublicKey,
    /// The key of the first MAC of messages to this device.
    first_mac_key: [u8; 32],
    /// The key that this device's cookies are sealed with.
    cookie_key: [u8; 32],
    clock: Clock,
    aead: Method,
}

impl Identity {
    pub(crate) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        let [first_mac_key, cookie_key] = [MAC1_LABEL, COOKIE_LABEL].map(|label| cookie::labelled(label, &public));
        Self { private, public, first_mac_key, cookie_key, clock: Clock::default(), aead: Method::best() }
    }

    /// The same, whose sessions seal and open many packets at once by that method.
    pub(crate) fn with_aead(self, aead: Method) -> Self {
        Self { aead, ..self }
    }

    /// How its sessions seal and open many packets at once.
    pub(crate) const fn aead(&self) -> Method {
        self.aead
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Whether the first MAC of an initiation or a response is for this device: only who knows its public key can make one. It
    /// costs under a microsecond, and every handshake has to pass it before anything else is spent on it.
    pub(crate) fn is_addressed(&self, message: &[u8]) -> bool {
        cookie::has_first_mac(message, &self.first_mac_key)
    }

    pub(super) fn cookie_key(&self) -> &[u8; 32] {
        &self.cookie_key
    }

    /// The timestamp of the next initiation.
    pub(crate) fn timestamp(&self, wall_clock: SystemTime) -> Timestamp {
        self.clock.next(wall_clock)
    }
}

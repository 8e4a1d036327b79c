//! The event log and the measurement registers it replays to.

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha384};

/// A 48-byte measurement: an RTMR, MRTD or the digest of an event.
pub(crate) type Measurement = [u8; 48];

/// dstack's event type for events extended at run time, always into RTMR3.
const RUNTIME_EVENT_TYPE: u32 = 0x0800_0001;
/// The TCG's EV_EFI_BOOT_SERVICES_APPLICATION, for the boot measurements.
const BOOT_EVENT_TYPE: u32 = 0x8000_0003;
/// Register that runtime events extend.
const RUNTIME_REGISTER: u32 = 3;
/// Events one instance keeps; a client that emits without end gets an error instead of our memory.
const MAX_EVENTS: usize = 4096;

/// One entry, with the field names of `GetQuote`'s `event_log` and Info's `tcb_info`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    imr: u32,
    event_type: u32,
    #[serde(serialize_with = "as_hex")]
    digest: Measurement,
    event: String,
    #[serde(serialize_with = "as_hex")]
    event_payload: Vec<u8>,
}

fn as_hex<S: Serializer>(bytes: impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

/// The event log of one instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLog(Vec<Event>);

impl EventLog {
    /// A log whose registers 0 to 2 hold one simulated boot event each, so that replaying them gives the quote's values.
    pub(crate) fn booted() -> Self {
        let events = ["firmware configuration", "kernel", "command line and initrd"];
        Self(
            (0..)
                .zip(events)
                .map(|(imr, name)| Event {
                    imr,
                    event_type: BOOT_EVENT_TYPE,
                    digest: simulated(name),
                    event: String::new(),
                    event_payload: Vec::new(),
                })
                .collect(),
        )
    }

    /// Extends RTMR3, as the agent does at boot and for EmitEvent.
    ///
    /// # Errors
    /// When the log is full.
    pub(crate) fn emit(&mut self, name: &str, payload: &[u8]) -> Result<(), String> {
        if self.0.len() >= MAX_EVENTS {
            return Err(format!("event log is full ({MAX_EVENTS} events); restart the simulator"));
        }
        let mut hash = Sha384::new();
        for part in [&RUNTIME_EVENT_TYPE.to_le_bytes()[..], b":", name.as_bytes(), b":", payload] {
            hash.update(part);
        }
        self.0.push(Event {
            imr: RUNTIME_REGISTER,
            event_type: RUNTIME_EVENT_TYPE,
            digest: hash.finalize().into(),
            event: name.to_owned(),
            event_payload: payload.to_vec(),
        });
        Ok(())
    }

    /// A JSON array of the events, keys in dstack's order.
    pub(crate) fn to_json(&self) -> String {
        // Plain structs of numbers and strings always serialise.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.0
    }

    /// The four registers after all events.
    pub(crate) fn replay(&self) -> [Measurement; 4] {
        let mut registers = [[0; 48]; 4];
        for event in &self.0 {
            if let Some(register) = registers.get_mut(event.imr as usize) {
                *register = Sha384::new().chain_update(*register).chain_update(event.digest).finalize().into();
            }
        }
        registers
    }

    /// SCALE bytes of the whole log: what the versioned attestation carries.
    pub(crate) fn to_scale(&self) -> Vec<u8> {
        let mut out = compact_length(self.0.len());
        for event in &self.0 {
            out.extend(event.imr.to_le_bytes());
            out.extend(event.event_type.to_le_bytes());
            out.extend(scale_bytes(&event.digest));
            out.extend(scale_bytes(event.event.as_bytes()));
            out.extend(scale_bytes(&event.event_payload));
        }
        out
    }

    /// SCALE bytes of the runtime events as (name, payload) pairs.
    pub(crate) fn runtime_to_scale(&self) -> Vec<u8> {
        let runtime: Vec<_> = self.0.iter().filter(|event| event.imr == RUNTIME_REGISTER).collect();
        let mut out = compact_length(runtime.len());
        for event in runtime {
            out.extend(scale_bytes(event.event.as_bytes()));
            out.extend(scale_bytes(&event.event_payload));
        }
        out
    }
}

/// A measurement that says what it is: the hash of a sentence, not of any firmware.
pub(crate) fn simulated(what: &str) -> Measurement {
    Sha384::digest(format!("SIMULATED {what}")).into()
}

/// SCALE's encoding of a byte string: compact length, then the bytes.
pub(crate) fn scale_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = compact_length(bytes.len());
    out.extend(bytes);
    out
}

/// SCALE's compact integer, in its modes of one, two and four bytes (lengths here stay below 2³⁰).
fn compact_length(length: usize) -> Vec<u8> {
    let value = u32::try_from(length).unwrap_or(u32::MAX);
    match value {
        0..=0x3f => vec![(value as u8) << 2],
        0x40..=0x3fff => ((value as u16) << 2 | 1).to_le_bytes().to_vec(),
        _ => (value << 2 | 2).to_le_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Event names and payloads of the public simulator fixture, and the register they replay to.
    #[test]
    fn runtime_events_replay_to_the_recorded_register() {
        let mut log = EventLog::default();
        let mut emit = |name: &str, payload: &[u8]| log.emit(name, payload).unwrap();
        emit("system-preparing", b"");
        emit("app-id", &hex::decode("5bb4ff9a3837357f19dc176407a5709c62eb6c56").unwrap());
        assert_eq!(log.events().len(), 2);
        assert_eq!(log.events()[0].event_type, 134_217_729);
        // Recomputed by hand: SHA-384(LE32(type) ‖ ":system-preparing:").
        let digest: Measurement = Sha384::digest(b"\x01\x00\x00\x08:system-preparing:").into();
        assert_eq!(log.events()[0].digest, digest);
        let first: Measurement = Sha384::new().chain_update([0; 48]).chain_update(digest).finalize().into();
        let second: Measurement =
            Sha384::new().chain_update(first).chain_update(log.events()[1].digest).finalize().into();
        assert_eq!(log.replay(), [[0; 48], [0; 48], [0; 48], second]);
    }

    #[test]
    fn a_full_log_refuses() {
        let mut log = EventLog::default();
        for _ in 0..MAX_EVENTS {
            log.emit("x", b"").unwrap();
        }
        assert!(log.emit("x", b"").unwrap_err().contains("full"));
    }

    #[test]
    fn compact_lengths_follow_scale() {
        // From the SCALE specification's own table of examples.
        assert_eq!(compact_length(0), [0x00]);
        assert_eq!(compact_length(1), [0x04]);
        assert_eq!(compact_length(42), [0xa8]);
        assert_eq!(compact_length(69), [0x15, 0x01]);
        assert_eq!(compact_length(65_535), [0xfe, 0xff, 0x03, 0x00]);
    }
}

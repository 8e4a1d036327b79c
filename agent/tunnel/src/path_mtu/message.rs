//! Probes and their acknowledgements, as they are inside a data message.

/// Bytes of an acknowledgement, and of the shortest probe.
const LEN: usize = 16;

/// The first byte, which no IP packet has: the version would be 0.
const NO_PACKET: u8 = 0;
const PROBE: u8 = 1;
const ACKNOWLEDGEMENT: u8 = 2;

/// Which probe it is, and its size: that of the message's content in bytes, which is an inner packet's where one is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Probes that were sent together have the same.
    pub(crate) number: u32,
    pub(crate) size: u16,
}

/// What came instead of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// It came in this size, and is to be acknowledged.
    Probe(Question),
    /// The probe came.
    Acknowledgement(Question),
}

impl Message {
    /// Reads the content of a data message that is authentic. `None` where it is neither: other content that is no packet, or a
    /// probe of another size than it says. One that is shorter than its acknowledgement is none.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let [NO_PACKET, kind, a, b, c, d, e, f] = *content.first_chunk()? else { return None };
        let question = Question { size: u16::from_be_bytes([a, b]), number: u32::from_be_bytes([c, d, e, f]) };
        match kind {
            PROBE if content.len() >= LEN && content.len() == question.size.into() => Some(Self::Probe(question)),
            ACKNOWLEDGEMENT if content.len() == LEN => Some(Self::Acknowledgement(question)),
            _ => None,
        }
    }

    /// The length of the content in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Probe(question) => question.size.into(),
            Self::Acknowledgement(_) => LEN,
        }
    }

    /// What the content begins with; zeros follow.
    pub(crate) fn beginning(&self) -> [u8; 8] {
        let (kind, Question { number, size }) = match *self {
            Self::Probe(question) => (PROBE, question),
            Self::Acknowledgement(question) => (ACKNOWLEDGEMENT, question),
        };
        let ([a, b], [c, d, e, f]) = (size.to_be_bytes(), number.to_be_bytes());
        [NO_PACKET, kind, a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(message: Message) -> Vec<u8> {
        let mut content = vec![0; message.len()];
        content[..8].copy_from_slice(&message.beginning());
        content
    }

    #[test]
    fn what_is_of_another_size_than_it_says_is_none() {
        let question = Question { number: 0x0102_0304, size: 1340 };
        let probe = content(Message::Probe(question));
        assert_eq!((probe.len(), &probe[..9]), (1340, &[0, 1, 5, 60, 1, 2, 3, 4, 0][..]));
        assert_eq!(Message::parse(&probe[..1339]), None);
        let short = Message::Probe(Question { size: 15, ..question });
        assert_eq!(Message::parse(&content(short)), None, "its acknowledgement would be longer");
        let acknowledgement = content(Message::Acknowledgement(question));
        assert_eq!(acknowledgement.len(), 16);
        assert_eq!(Message::parse(&acknowledgement[..15]), None);
        assert_eq!(Message::parse(&[0, 3, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Message::parse(&[0x45; 16]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u32>(), size in 16_u16..) {
            for message in [Message::Probe, Message::Acknowledgement].map(|kind| kind(Question { number, size })) {
                prop_assert_eq!(Message::parse(&content(message)), Some(message));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut content in prop::collection::vec(any::<u8>(), 0..40), kind in 0..4_u8) {
            if let [first, second, ..] = &mut content[..] {
                (*first, *second) = (0, kind);
            }
            if let Some(message) = Message::parse(&content) {
                prop_assert_eq!(&message.beginning()[..], &content[..8]);
                prop_assert_eq!(message.len(), content.len());
            }
        }
    }
}

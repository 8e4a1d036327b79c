//! Asking a STUN server where it sees this node (RFC 8489, the binding request alone).
//!
//! The answer is a hint from the network, like everything that is not proved inside the tunnel: the most that a false one can do
//! is to have peers try an address that is not this node's.

mod client;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) use self::client::Client;

/// Bytes of a request, and of the head of every message.
pub const HEAD: usize = 20;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;
const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// No answer to this request: any host may have sent it, and an answer may still come. All other errors come from a host that
    /// knows the request.
    #[error("no answer to this STUN request")]
    Transaction,
    /// No STUN message: another cookie, or another length than it says.
    #[error("not a STUN message")]
    Form,
    /// A STUN message, but no answer to a binding request.
    #[error("STUN message of type {0:#06x}, which is no answer to a binding request")]
    Type(u16),
    /// The server said no; its code, 300 to 699 (RFC 8489, section 14.8), or 0 where it gives none.
    #[error("the STUN server refused with error {0}; name another one")]
    Refused(u16),
    /// An attribute that ends after the message, or an address of unknown form.
    #[error("STUN answer with a broken attribute {0:#06x}")]
    Attribute(u16),
    /// An answer without an address.
    #[error("STUN answer without an address")]
    NoAddress,
}

/// A binding request. `transaction` is random: only the hosts on the path to the server know it.
#[must_use]
pub fn request(transaction: [u8; 12]) -> [u8; HEAD] {
    let mut request = [0; HEAD];
    request[..2].copy_from_slice(&REQUEST.to_be_bytes());
    request[4..8].copy_from_slice(&COOKIE);
    request[8..].copy_from_slice(&transaction);
    request
}

/// Where the server saw the sender of the request with that transaction. The caller has looked that the datagram came from the
/// server's address. Attributes that are not needed are skipped, and no integrity is checked: there is no shared secret.
///
/// # Errors
/// [`StunError`].
pub fn response(datagram: &[u8], transaction: [u8; 12]) -> Result<SocketAddr, StunError> {
    let (head, attributes) = datagram.split_first_chunk::<HEAD>().ok_or(StunError::Transaction)?;
    if head[8..] != transaction {
        return Err(StunError::Transaction);
    }
    let [type_0, type_1, length_0, length_1, ..] = *head;
    let (kind, length) = (u16::from_be_bytes([type_0, type_1]), u16::from_be_bytes([length_0, length_1]));
    if head[4..8] != COOKIE || kind >> 14 != 0 || usize::from(length) != attributes.len() || length % 4 != 0 {
        return Err(StunError::Form);
    }
    if kind != SUCCESS && kind != ERROR {
        return Err(StunError::Type(kind));
    }
    let mut mapped = None;
    let mut xor_mapped = None;
    let mut code = 0;
    let mut rest = attributes;
    while let Some((&[kind_0, kind_1, length_0, length_1], behind)) = rest.split_first_chunk() {
        let attribute = u16::from_be_bytes([kind_0, kind_1]);
        let wrong = StunError::Attribute(attribute);
        let length = usize::from(u16::from_be_bytes([length_0, length_1]));
        // The whole is made of words of four bytes, so that what fits without its padding fits with it.
        let value = behind.get(..length).ok_or(wrong)?;
        match attribute {
            XOR_MAPPED_ADDRESS if xor_mapped.is_none() => {
                xor_mapped = Some(unmask(address(value).ok_or(wrong)?, transaction));
            }
            MAPPED_ADDRESS if mapped.is_none() => mapped = Some(address(value).ok_or(wrong)?),
            ERROR_CODE => code = error_code(value).ok_or(wrong)?,
            _ => {}
        }
        rest = behind.get(length.next_multiple_of(4)..).ok_or(wrong)?;
    }
    if kind == ERROR {
        return Err(StunError::Refused(code));
    }
    // Servers of RFC 3489 send the second alone.
    xor_mapped.or(mapped).ok_or(StunError::NoAddress)
}

/// Zero, family, port, address (RFC 8489, section 14.1).
fn address(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, port_0, port_1], ip) = value.split_first_chunk()?;
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([port_0, port_1])))
}

/// The port is masked with the first bytes of the cookie, the address with cookie and transaction (RFC 8489, section 14.2).
fn unmask(masked: SocketAddr, transaction: [u8; 12]) -> SocketAddr {
    let mask: [u8; 16] = std::array::from_fn(|at| if at < 4 { COOKIE[at] } else { transaction[at - 4] });
    let port = masked.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
    let ip = match masked.ip() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ u32::from_be_bytes(COOKIE))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ u128::from_be_bytes(mask))),
    };
    SocketAddr::new(ip, port)
}

/// Class and number (RFC 8489, section 14.8).
fn error_code(value: &[u8]) -> Option<u16> {
    let (&[_, _, class, number], _reason) = value.split_first_chunk()?;
    Some(u16::from(class & 7) * 100 + u16::from(number))
}

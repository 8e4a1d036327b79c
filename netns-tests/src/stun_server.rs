//! A STUN server: binding requests and their answers (RFC 8489), over IPv4 and nothing more.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;

/// Answers for ever; `note` is called once it does.
pub fn serve(address: SocketAddr, note: impl FnOnce()) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("bind udp {address}"))?;
    note();
    let mut datagram = [0; 2048];
    loop {
        // Errors are about one sender: the others go on.
        if let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut datagram)
            && let Some(answer) = answer(&datagram[..length], from)
        {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The success response to a binding request, with XOR-MAPPED-ADDRESS.
fn answer(request: &[u8], from: SocketAddrV4) -> Option<Vec<u8>> {
    let header = request.get(..HEADER).filter(|header| header[..2] == [0, 1] && header[4..8] == COOKIE)?;
    let [high, low] = from.port().to_be_bytes();
    let mut answer = vec![1, 1, 0, 12];
    answer.extend_from_slice(&header[4..]);
    answer.extend([0, 0x20, 0, 8, 0, 1, high ^ COOKIE[0], low ^ COOKIE[1]]);
    answer.extend(from.ip().octets().iter().zip(COOKIE).map(|(byte, mask)| byte ^ mask));
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_a_binding_request_as_in_rfc_5769_and_nothing_else() {
        // Transaction id and mapped address of its section 2.2.
        let id = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let request = [&[0, 1, 0, 0][..], &COOKIE, &id].concat();
        let from = "192.0.2.1:32853".parse().unwrap();
        let expected = [&[1, 1, 0, 12][..], &COOKIE, &id, b"\0\x20\0\x08\0\x01\xa1\x47\xe1\x12\xa6\x43"].concat();
        assert_eq!(answer(&request, from), Some(expected.clone()));
        assert_eq!(answer(&expected, from), None, "an answer was answered");
        assert_eq!(answer(&request[..19], from), None);
    }
}

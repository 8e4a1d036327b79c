//! Which of the sockets on a port gets a datagram: handshakes have sockets of their own. Responses and cookie replies have others than
//! initiations, of which a flood would fill the socket that the response to a renewal comes to. The kernel has a program of ours
//! decide it, in the classic BPF language, before the datagram takes room in any socket (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5).
#![expect(unsafe_code, reason = "the standard library has no calls for this socket option")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use libc::{
    BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MISC, BPF_MOD, BPF_MSH,
    BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF, sock_filter, sock_fprog,
};

use crate::sys;

/// Bytes that handshakes may take while they wait: a few thousand, which are read within some ten milliseconds. More would only make
/// each of them wait longer.
pub(super) const BUFFER: libc::c_int = 1 << 20;

/// The first four bytes of an initiation, a response and a cookie reply, in the network's order.
const HANDSHAKES: [u32; 3] = [0x0100_0000, 0x0200_0000, 0x0300_0000];

/// Where the kernel's program finds the IP header.
const IP: u32 = SKF_NET_OFF.cast_unsigned();

/// For the socket and those that share its port with it: the first `queues` get what is no handshake, each flow one of them, the next
/// gets initiations, and the last responses and cookie replies.
pub(super) fn choose_sockets(socket: &OwnedFd, queues: usize) -> io::Result<()> {
    let queues = u32::try_from(queues).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut program = program(is_ipv4(socket)?, queues);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let size = size_of_val(&program) as libc::socklen_t;
    let option = libc::SO_ATTACH_REUSEPORT_CBPF;
    // SAFETY: the pointer is to a value of the length given, which points to as many instructions as it says.
    sys::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), size)
    })
    .map(drop)
}

/// Its result is the number of the socket. It is given the datagram; of one that is too short for a load it returns 0.
fn program(is_ipv4: bool, queues: u32) -> Vec<sock_filter> {
    let flow = if queues == 1 { Vec::new() } else { queue_of_flow(is_ipv4, queues) };
    // What a jump passes: the instructions for data with their end.
    let beyond = flow.len() as u8 + 1;
    let mut program = vec![step(BPF_LD | BPF_W | BPF_ABS, 0)];
    for (left, first) in (0..HANDSHAKES.len() as u8).rev().zip(HANDSHAKES) {
        let is_initiation = first == HANDSHAKES[0];
        let jt = left + beyond + u8::from(!is_initiation);
        program.push(sock_filter { jt, ..step(BPF_JMP | BPF_JEQ | BPF_K, first) });
    }
    let is_one = flow.is_empty();
    program.extend(flow);
    program.push(if is_one { step(BPF_RET | BPF_K, 0) } else { step(BPF_RET | RETURN_A, 0) });
    program.extend([step(BPF_RET | BPF_K, queues), step(BPF_RET | BPF_K, queues + 1)]);
    program
}

/// The accumulator as the result; the C library's headers have it, the crate `libc` has not.
const RETURN_A: u32 = 0x10;

/// A number below `queues` that depends on the sender's address and port.
fn queue_of_flow(is_ipv4: bool, queues: u32) -> Vec<sock_filter> {
    let (mix, keep) = (step(BPF_ALU | BPF_XOR | BPF_X, 0), step(BPF_MISC | BPF_TAX, 0));
    let mut program = if is_ipv4 {
        // The length of the IP header, behind which the port is.
        vec![
            step(BPF_LDX | BPF_B | BPF_MSH, IP),
            step(BPF_LD | BPF_H | BPF_IND, IP),
            keep,
            step(BPF_LD | BPF_W | BPF_ABS, IP.wrapping_add(12)),
            mix,
        ]
    } else {
        let mut program = vec![step(BPF_LD | BPF_H | BPF_ABS, IP.wrapping_add(40))];
        for word in [8, 12, 16, 20] {
            program.extend([keep, step(BPF_LD | BPF_W | BPF_ABS, IP.wrapping_add(word)), mix]);
        }
        program
    };
    // Multiplied by the golden ratio, neighbours lie far apart in the upper half.
    program.extend([
        step(BPF_ALU | BPF_MUL | BPF_K, 0x9e37_79b1),
        step(BPF_ALU | BPF_RSH | BPF_K, 16),
        step(BPF_ALU | BPF_MOD | BPF_K, queues),
    ]);
    program
}

fn is_ipv4(socket: &OwnedFd) -> io::Result<bool> {
    let (mut domain, mut size) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the pointers are to a value and its length.
    sys::check(unsafe {
        let value = (&raw mut domain).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN, value, &raw mut size)
    })?;
    Ok(domain == libc::AF_INET)
}

const fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

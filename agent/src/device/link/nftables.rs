//! The guard's packet filter table, over netlink: read, set as a whole, removed. Every call has a socket of its own, so that
//! nothing is kept that a fault could spoil, and asks the kernel alone: no `nft` program is needed.

mod ruleset;

use std::io;

use mesh_core::network::MeshNetwork;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, nftables::NfTablesMessage,
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{FoundTable, LinkError};
use ruleset::{Found, Ruleset, chain_query, rules_query, table_query};

/// A dump that others changed meanwhile is made again so often.
const TRIES: usize = 5;

/// Our table for this interface; `None` where there is none.
///
/// # Errors
/// See [`LinkError`].
pub(super) fn find(interface: &str) -> Result<Option<FoundTable>, LinkError> {
    let what = format!("read packet filter table `{}`", ruleset::table_name(interface));
    read(interface).map_err(|error| said(&what, error))
}

/// Makes our table for this interface guard `network`, in one transaction: whatever it held before is gone, and at no moment
/// is there no table or half of one.
///
/// # Errors
/// See [`LinkError`]. Nothing has changed then.
pub(super) fn set(interface: &str, network: MeshNetwork) -> Result<(), LinkError> {
    let what = format!("set packet filter table `{}`", ruleset::table_name(interface));
    let ruleset = Ruleset::new(interface, network);
    // Deleting what is not there is an error, making what is there is none.
    let mut messages = vec![ruleset.new_table(), ruleset.delete_table()];
    messages.extend(ruleset.everything());
    transact(messages).map_err(|error| said(&what, error))
}

/// Removes our table for this interface. Whether there was one.
///
/// # Errors
/// See [`LinkError`].
pub(super) fn remove(interface: &str) -> Result<bool, LinkError> {
    let what = format!("remove packet filter table `{}`", ruleset::table_name(interface));
    match transact(vec![ruleset::delete_table(interface)]) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(said(&what, error)),
    }
}

fn said(what: &str, error: io::Error) -> LinkError {
    match error.raw_os_error() {
        // No netfilter sockets, no nf_tables behind them, or not this family of tables.
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => LinkError::NoNfTables,
        _ => LinkError::System { what: what.to_owned(), reason: error.to_string() },
    }
}

fn read(interface: &str) -> io::Result<Option<FoundTable>> {
    let Some(table) = ask(table_query(interface))? else { return Ok(None) };
    let mut found = Found { table, chains: Vec::new(), rules: Vec::new() };
    for chain in ruleset::CHAINS {
        found.chains.extend(ask(chain_query(interface, chain))?);
        found.rules.push(dump(&rules_query(interface, chain))?);
    }
    let network = found.network();
    let is_whole = network.is_some_and(|network| Ruleset::new(interface, network).is(&found));
    Ok(Some(FoundTable { network, is_whole }))
}

/// One object; `None` where there is none of that name.
fn ask(query: NfTablesMessage) -> io::Result<Option<NfTablesMessage>> {
    let socket = connect()?;
    send(&socket, &message(query, NLM_F_REQUEST, 1))?;
    for (_, payload) in receive(&socket)? {
        if let NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::NfTables(found), ..
        }) = payload
        {
            return Ok(Some(found));
        }
        if let NetlinkPayload::Error(error) = payload {
            return if is_missing(&error) { Ok(None) } else { Err(error.to_io()) };
        }
    }
    Err(unexpected())
}

/// All objects of a kind, in order; none where there is nothing they could be in.
fn dump(query: &NfTablesMessage) -> io::Result<Vec<NfTablesMessage>> {
    for _ in 0..TRIES {
        let socket = connect()?;
        send(&socket, &message(query.clone(), NLM_F_REQUEST | NLM_F_DUMP, 1))?;
        let (mut all, mut is_torn, mut is_over) = (Vec::new(), false, false);
        while !is_over {
            for (header, payload) in receive(&socket)? {
                is_torn |= header.flags & NLM_F_DUMP_INTR != 0;
                is_over |= matches!(payload, NetlinkPayload::Done(_));
                if let NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(found),
                    ..
                }) = payload
                {
                    all.push(found);
                } else if let NetlinkPayload::Error(error) = payload {
                    return if is_missing(&error) { Ok(Vec::new()) } else { Err(error.to_io()) };
                }
            }
        }
        if !is_torn {
            return Ok(all);
        }
    }
    Err(io::Error::other("others change the packet filter all the time"))
}

/// All of it or nothing. The kernel confirms the last message when everything is in force, and names any that it refuses.
fn transact(messages: Vec<NfTablesMessage>) -> io::Result<()> {
    let socket = connect()?;
    let last = messages.len() as u32;
    let mut batch = control(ControlMessage::BatchBegin, 0);
    for (number, inner) in (1..).zip(messages) {
        let flags = if matches!(inner, NfTablesMessage::NewRule(_)) {
            NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND
        } else if matches!(inner, NfTablesMessage::NewTable(_) | NfTablesMessage::NewChain(_)) {
            NLM_F_REQUEST | NLM_F_CREATE
        } else {
            NLM_F_REQUEST
        };
        let confirm = if number == last { NLM_F_ACK } else { 0 };
        batch.extend(message(inner, flags | confirm, number));
    }
    batch.extend(control(ControlMessage::BatchEnd, last + 1));
    send(&socket, &batch)?;
    loop {
        for (header, payload) in receive(&socket)? {
            if let NetlinkPayload::Error(answer) = payload {
                match answer.code {
                    Some(_) => return Err(answer.to_io()),
                    None if header.sequence_number == last => return Ok(()),
                    None => {}
                }
            }
        }
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel answers before `send` returns: where nothing is there to be received, nothing will come.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    let sent = socket.send(bytes, 0)?;
    if sent == bytes.len() { Ok(()) } else { Err(unexpected()) }
}

/// The messages of the next datagram.
fn receive(socket: &Socket) -> io::Result<Vec<(NetlinkHeader, NetlinkPayload<NetfilterMessage>)>> {
    let (bytes, _) = socket.recv_from_full()?;
    let mut messages = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length.max(1)..).unwrap_or_default();
        messages.push((message.header, message.payload));
    }
    Ok(messages)
}

fn message(inner: NfTablesMessage, flags: u16, sequence_number: u32) -> Vec<u8> {
    serialize(
        NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), inner),
        flags,
        sequence_number,
    )
}

fn control(inner: ControlMessage, sequence_number: u32) -> Vec<u8> {
    // For which part of netfilter the batch is: NFNL_SUBSYS_NFTABLES.
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, libc::NFNL_SUBSYS_NFTABLES as u16);
    serialize(NetfilterMessage::new(header, inner), NLM_F_REQUEST, sequence_number)
}

fn serialize(message: NetfilterMessage, flags: u16, sequence_number: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    (header.flags, header.sequence_number) = (flags, sequence_number);
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn is_missing(error: &ErrorMessage) -> bool {
    error.raw_code() == -libc::ENOENT
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not one to this question")
}

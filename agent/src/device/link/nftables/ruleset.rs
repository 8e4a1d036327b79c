//! What the guard's table holds, as messages to the kernel, and whether what the kernel holds is that.
//!
//! As `nft list table` shows the one of interface `mesh0` and network 10.0.1.0/24:
//!
//! ```text
//! table inet p2p-agent-mesh0 {
//!     chain inbound {
//!         type filter hook prerouting priority -500; policy accept;
//!         iifname != "mesh0" iifname != "lo" ip saddr 10.0.1.0/24 drop
//!         iifname != "mesh0" iifname != "lo" ip daddr 10.0.1.0/24 drop
//!     }
//!     chain outbound {
//!         type filter hook postrouting priority -500; policy accept;
//!         oifname != "mesh0" oifname != "lo" ip saddr 10.0.1.0/24 drop
//!         oifname != "mesh0" oifname != "lo" ip daddr 10.0.1.0/24 drop
//!     }
//! }
//! ```
//!
//! Inbound: before fragments are put together, connections tracked, addresses translated or routes looked up. Outbound: what this
//! machine sends or forwards, whichever rule, routing table or `SO_BINDTODEVICE` chose its route, before its source is
//! translated. The mesh has IPv4 addresses alone; the table is of both families (inet), and its rules ask for IPv4.

use ipnetwork::Ipv4Network;
use mesh_core::network::MeshNetwork;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute,
    RuleMessage, TableAttribute, TableFlags, TableMessage, Verdict, VerdictAttribute,
};

/// Before everything that has a name (`nft`'s `raw` is -300), and before fragments are put together (-400).
const PRIORITY: i32 = -500;
/// Where an IPv4 header has the source and the destination (RFC 791, section 3.1).
const ADDRESSES: [u32; 2] = [12, 16];
/// What a base chain does with packets that no rule of it drops (NF_ACCEPT).
const ACCEPT: u32 = 1;
/// What rules do with packets (NF_DROP).
const DROP: u32 = 0;
/// Of the bases that a payload can be read from (NFT_PAYLOAD_NETWORK_HEADER).
const NETWORK_HEADER: u32 = 1;
/// Of the families that a packet can be of (NFPROTO_IPV4).
const IPV4: u8 = 2;
/// Of the operations of `bitwise`, that with mask and xor (NFT_BITWISE_MASK_XOR), which older kernels do not name.
const MASK_AND_XOR: u32 = 0;
/// Bytes of an interface's name in a comparison (IFNAMSIZ).
const NAME_LENGTH: usize = 16;

type Expression = ListAttribute<ExpressionAttribute>;

/// The chains of the table.
pub(super) const CHAINS: [Chain; 2] = [
    Chain { name: "inbound", hook: InetHookNumber::PreRouting, interface: MetaKey::Iifname },
    Chain { name: "outbound", hook: InetHookNumber::PostRouting, interface: MetaKey::Oifname },
];

/// One chain: where it is, and the interface that its rules look at.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    name: &'static str,
    hook: InetHookNumber,
    interface: MetaKey,
}

/// Our table's name: one for each interface, so that agents of several clusters keep apart.
pub(super) fn table_name(interface: &str) -> String {
    format!("p2p-agent-{interface}")
}

pub(super) fn table_query(interface: &str) -> NfTablesMessage {
    NfTablesMessage::GetTable(TableMessage { attributes: vec![TableAttribute::Name(table_name(interface))] })
}

pub(super) fn chain_query(interface: &str, chain: Chain) -> NfTablesMessage {
    let attributes = vec![ChainAttribute::Table(table_name(interface)), ChainAttribute::Name(chain.name.to_owned())];
    NfTablesMessage::GetChain(ChainMessage { attributes })
}

pub(super) fn rules_query(interface: &str, chain: Chain) -> NfTablesMessage {
    let attributes = vec![RuleAttribute::Table(table_name(interface)), RuleAttribute::Chain(chain.name.to_owned())];
    NfTablesMessage::GetRule(RuleMessage { attributes })
}

pub(super) fn delete_table(interface: &str) -> NfTablesMessage {
    NfTablesMessage::DeleteTable(TableMessage { attributes: vec![TableAttribute::Name(table_name(interface))] })
}

/// What the table should be.
pub(super) struct Ruleset<'a> {
    interface: &'a str,
    network: Ipv4Network,
}

/// What the kernel has: its answers for the table, its chains, and the rules of each.
pub(super) struct Found {
    pub(super) table: NfTablesMessage,
    pub(super) chains: Vec<NfTablesMessage>,
    pub(super) rules: Vec<Vec<NfTablesMessage>>,
}

impl<'a> Ruleset<'a> {
    pub(super) fn new(interface: &'a str, network: MeshNetwork) -> Self {
        Self { interface, network: network.network() }
    }

    pub(super) fn delete_table(&self) -> NfTablesMessage {
        delete_table(self.interface)
    }

    pub(super) fn new_table(&self) -> NfTablesMessage {
        let attributes =
            vec![TableAttribute::Name(table_name(self.interface)), TableAttribute::Flags(TableFlags::empty())];
        NfTablesMessage::NewTable(TableMessage { attributes })
    }

    /// What makes the table where there is none.
    pub(super) fn everything(&self) -> Vec<NfTablesMessage> {
        let mut messages = vec![self.new_table()];
        for chain in CHAINS {
            let place = [RuleAttribute::Table(table_name(self.interface)), RuleAttribute::Chain(chain.name.to_owned())];
            messages.push(NfTablesMessage::NewChain(ChainMessage { attributes: self.chain(chain) }));
            messages.extend(self.rules(chain).map(|rule| {
                let attributes = [&place[..], &[RuleAttribute::Expressions(rule)]].concat();
                NfTablesMessage::NewRule(RuleMessage { attributes })
            }));
        }
        messages
    }

    fn chain(&self, chain: Chain) -> Vec<ChainAttribute> {
        vec![
            ChainAttribute::Table(table_name(self.interface)),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(vec![Hook::Number(chain.hook.into()), Hook::Priority(PRIORITY.cast_unsigned())]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type("filter".to_owned()),
        ]
    }

    /// One that drops by source and one by destination.
    fn rules(&self, chain: Chain) -> [Vec<Expression>; 2] {
        ADDRESSES.map(|offset| {
            let mut rule = Vec::new();
            for other in [self.interface, "lo"] {
                let mut name = other.as_bytes().to_vec();
                name.resize(NAME_LENGTH, 0);
                rule.extend([meta(chain.interface), compare(Operator::NotEqual, &name)]);
            }
            rule.extend([
                meta(MetaKey::Nfproto),
                compare(Operator::Equal, &[IPV4]),
                address(offset),
                mask(self.network.mask().octets()),
                compare(Operator::Equal, &self.network.network().octets()),
                drop_it(),
            ]);
            rule
        })
    }

    /// Whether what was found is exactly this: nothing less, nothing more, and in force.
    pub(super) fn is(&self, found: &Found) -> bool {
        let NfTablesMessage::NewTable(table) = &found.table else { return false };
        let is_odd = |attribute: &TableAttribute| {
            // A dormant table drops nothing. In use are chains, and whatever else it may hold.
            matches!(attribute, TableAttribute::Flags(flags) if !flags.is_empty())
                || matches!(attribute, TableAttribute::Use(chains) if *chains != CHAINS.len() as u32)
        };
        let has_chain = |(chain, found): (Chain, &NfTablesMessage)| {
            let NfTablesMessage::NewChain(found) = found else { return false };
            self.chain(chain).iter().all(|wanted| found.attributes.iter().any(|is| same_chain_attribute(wanted, is)))
        };
        let has_rules = |(chain, found): (Chain, &Vec<NfTablesMessage>)| {
            let wanted = self.rules(chain);
            let found: Vec<_> = found.iter().filter_map(expressions).collect();
            found.len() == wanted.len() && wanted.iter().zip(found).all(|(wanted, found)| same_rule(wanted, found))
        };
        !table.attributes.iter().any(is_odd)
            && found.chains.len() == CHAINS.len()
            && CHAINS.into_iter().zip(&found.chains).all(has_chain)
            && found.rules.len() == CHAINS.len()
            && CHAINS.into_iter().zip(&found.rules).all(has_rules)
    }
}

impl Found {
    /// The network that the table was made for, by any rule of it that masks an address.
    pub(super) fn network(&self) -> Option<MeshNetwork> {
        let rules = self.rules.iter().flatten().filter_map(expressions);
        rules.into_iter().find_map(|rule| {
            let at = rule.iter().position(|expression| matches!(data(expression), Some(Expressions::Bitwise(_))))?;
            let Some(Expressions::Bitwise(bitwise)) = data(&rule[at]) else { return None };
            let Some(Expressions::Cmp(compared)) = data(rule.get(at + 1)?) else { return None };
            let mask =
                bitwise.iter().find_map(|part| if let Bitwise::Mask(mask) = part { octets(mask) } else { None })?;
            let base = compared.iter().find_map(|part| if let Cmp::Data(base) = part { octets(base) } else { None })?;
            let network = Ipv4Network::with_netmask(base.into(), mask.into()).ok()?;
            MeshNetwork::try_from(network).ok()
        })
    }
}

fn octets(data: &DataAttribute) -> Option<[u8; 4]> {
    if let DataAttribute::Value(value) = data { value.as_slice().try_into().ok() } else { None }
}

fn expressions(message: &NfTablesMessage) -> Option<&[Expression]> {
    let NfTablesMessage::NewRule(rule) = message else { return None };
    rule.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Expressions(expressions) = attribute { Some(expressions.as_slice()) } else { None }
    })
}

fn data(expression: &Expression) -> Option<&Expressions> {
    let ListAttribute::Element(attributes) = expression else { return None };
    attributes
        .iter()
        .find_map(|attribute| if let ExpressionAttribute::Data(data) = attribute { Some(data) } else { None })
}

fn same_chain_attribute(wanted: &ChainAttribute, is: &ChainAttribute) -> bool {
    match (wanted, is) {
        (ChainAttribute::Hook(wanted), ChainAttribute::Hook(is)) => same_parts(wanted, is),
        (wanted, is) => wanted == is,
    }
}

fn same_rule(wanted: &[Expression], found: &[Expression]) -> bool {
    let same = |(wanted, found): (&Expression, &Expression)| match (data(wanted), data(found)) {
        (Some(Expressions::Meta(wanted)), Some(Expressions::Meta(found))) => same_parts(wanted, found),
        (Some(Expressions::Cmp(wanted)), Some(Expressions::Cmp(found))) => same_parts(wanted, found),
        (Some(Expressions::Payload(wanted)), Some(Expressions::Payload(found))) => same_parts(wanted, found),
        (Some(Expressions::Immediate(wanted)), Some(Expressions::Immediate(found))) => same_parts(wanted, found),
        (Some(Expressions::Bitwise(wanted)), Some(Expressions::Bitwise(found))) => {
            let named: Vec<_> = found.iter().filter(|part| **part != Bitwise::Op(MASK_AND_XOR)).cloned().collect();
            same_parts(wanted, &named)
        }
        _ => false,
    };
    wanted.len() == found.len() && wanted.iter().zip(found).all(same)
}

/// The kernel lists the parts of an expression in an order of its own.
fn same_parts<T: PartialEq>(wanted: &[T], found: &[T]) -> bool {
    wanted.len() == found.len() && wanted.iter().all(|part| found.contains(part))
}

fn meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

fn compare(operator: Operator, with: &[u8]) -> Expression {
    let with = DataAttribute::Value(with.to_vec());
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(with)]).into()
}

fn address(offset: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(offset),
        Payload::Len(4),
    ])
    .into()
}

fn mask(mask: [u8; 4]) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; 4])),
    ])
    .into()
}

fn drop_it() -> Expression {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))]);
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)]).into()
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
mod tests;

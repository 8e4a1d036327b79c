//! What a cluster at Phala Cloud lacks: from what the API lists and what the contract says to the one thing that is to be done next.
//! There is no other state, so that a run that was cut short goes on by looking again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use alloy_primitives::B256;
use mesh_core::{
    id::{InstanceId, TokenId},
    listen_port::listen_port,
};

use super::{Cvm, CvmId, CvmState, Mapping, NodeId};

/// What is to be there.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) nodes: usize,
    /// The compose hashes of what was rendered, one for each text that the API may make of it.
    pub(crate) composes: BTreeSet<B256>,
    /// Registrations are fetched from the agents and submitted here; otherwise nodes pay for their own.
    pub(crate) relays: bool,
}

/// One CVM, as API and contract have it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) cvm: Cvm,
    /// `None`: no UDP port can be mapped to it, or none is wanted.
    pub(crate) ports: Option<Vec<Mapping>>,
    pub(crate) membership: Membership,
}

/// What the contract says of a CVM's instance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    NoToken,
    /// Bound, and not registered.
    Bound(TokenId),
    Revoked(TokenId),
    Member {
        token: TokenId,
        endpoint: Option<SocketAddr>,
    },
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// One more CVM.
    Create,
    /// A UDP port of the host for this one of the CVM's.
    MapUdp {
        cvm: CvmId,
        instance: InstanceId,
        port: u16,
    },
    /// The CVM's agent is told its port and its endpoint outside.
    Advertise {
        cvm: CvmId,
        instance: InstanceId,
        port: u16,
        endpoint: SocketAddr,
    },
    Mint {
        instance: InstanceId,
    },
    /// What its agent has signed is submitted.
    Relay {
        cvm: CvmId,
        instance: InstanceId,
        token: TokenId,
    },
    /// Nothing can be done before this has happened.
    WaitFor(String),
    Done,
}

/// What this command cannot mend, and how it can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// What was done in this run and cannot be read back, and what could not be done just now.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// A UDP port was mapped to them.
    pub(crate) mapped: BTreeSet<InstanceId>,
    /// Their environment was set.
    pub(crate) advertised: BTreeSet<InstanceId>,
    /// Their agents had nothing to submit, and why, in this round.
    pub(crate) not_signed: BTreeMap<InstanceId, String>,
}

/// The next step towards what is wanted.
pub(crate) fn next(wanted: &Wanted, seen: &[Seen], tried: &Tried) -> Result<Step, Stuck> {
    for Seen { cvm, membership, .. } in seen {
        refuse_broken(cvm, *membership)?;
        if let Some(other) = cvm.compose_hash.filter(|hash| !wanted.composes.contains(hash)) {
            return Err(Stuck {
                what: format!("{} runs another app-compose.json (compose hash {other})", cvm.name),
                hint: "`meshctl phala upgrade` changes the CVMs that are there; or give the compose file that they run"
                    .to_owned(),
            });
        }
    }
    if seen.len() > wanted.nodes {
        return Err(Stuck {
            what: format!("the app has {} CVMs, and {} were asked for", seen.len(), wanted.nodes),
            hint: "delete those that are too many, or give a higher `--nodes`".to_owned(),
        });
    }
    if seen.len() < wanted.nodes {
        // Further instances are copies of one that runs.
        return Ok(match seen.first() {
            Some(_) if !seen.iter().any(|seen| seen.cvm.state == CvmState::Running) => {
                Step::WaitFor(waits_for(seen.iter().map(|seen| format!("{} boots", seen.cvm.name))))
            }
            Some(_) | None => Step::Create,
        });
    }
    let mut waiting = Vec::new();
    for node in seen {
        let step = step_of(wanted, node, tried);
        if let Step::WaitFor(what) = step {
            waiting.push(what);
        } else if step != Step::Done {
            return Ok(step);
        }
    }
    Ok(if waiting.is_empty() { Step::Done } else { Step::WaitFor(waits_for(waiting.into_iter())) })
}

/// What one CVM lacks.
fn step_of(wanted: &Wanted, node: &Seen, tried: &Tried) -> Step {
    let Cvm { name, .. } = &node.cvm;
    let Some(instance) = settled(&node.cvm) else {
        return Step::WaitFor(format!("{name} boots ({})", node.cvm.status));
    };
    let (cvm, port) = (node.cvm.id.clone(), listen_port(instance));
    if let Some(ports) = &node.ports {
        let Some(mapping) = ports.iter().find(|mapping| mapping.vm_port == port) else {
            if tried.mapped.contains(&instance) {
                return Step::WaitFor(format!("Phala Cloud lists the UDP port of {name} that was mapped"));
            }
            return Step::MapUdp { cvm, instance, port };
        };
        let registered = match node.membership {
            Membership::Member { endpoint, .. } => endpoint,
            Membership::NoToken | Membership::Bound(_) | Membership::Revoked(_) => None,
        };
        let missing = mapping.endpoint().filter(|endpoint| registered != Some(*endpoint));
        if let Some(endpoint) = missing.filter(|_| !tried.advertised.contains(&instance)) {
            return Step::Advertise { cvm, instance, port, endpoint };
        }
    }
    match node.membership {
        Membership::NoToken => Step::Mint { instance },
        Membership::Member { .. } => Step::Done,
        Membership::Bound(token) if wanted.relays => match tried.not_signed.get(&instance) {
            None => Step::Relay { cvm, instance, token },
            Some(why) => Step::WaitFor(format!("{name} signs its registration for token {token} ({why})")),
        },
        Membership::Bound(token) | Membership::Revoked(token) => Step::WaitFor(format!(
            "{name} registers for token {token}: its log names the address that is to pay, or give `--agent-url`"
        )),
    }
}

/// Its instance id, once it runs and nothing is under way.
fn settled(cvm: &Cvm) -> Option<InstanceId> {
    cvm.instance.filter(|_| cvm.state == CvmState::Running && !cvm.is_in_progress)
}

/// What no waiting mends.
pub(super) fn refuse_broken(cvm: &Cvm, membership: Membership) -> Result<(), Stuck> {
    let Cvm { name, status, .. } = cvm;
    if let Membership::Revoked(token) = membership {
        return Err(Stuck {
            what: format!("{name} has token {token}, which is revoked"),
            hint: format!("`meshctl reinstate {token}`, then `meshctl bind {token} --instance ID`, lets it back"),
        });
    }
    match cvm.state {
        CvmState::Failed => Err(Stuck {
            what: format!("{name} has failed: Phala Cloud calls it `{status}`"),
            hint: "its serial log says why: the boot gate refuses a compose hash or a device that is not allowed"
                .to_owned(),
        }),
        CvmState::Stopped => Err(Stuck {
            what: format!("{name} is stopped"),
            hint: "start it in Phala Cloud, or delete it, and run the same command again".to_owned(),
        }),
        CvmState::Running | CvmState::Changing | CvmState::Gone => Ok(()),
    }
}

/// The first few, and how many more.
pub(super) fn waits_for(what: impl Iterator<Item = String>) -> String {
    let mut what: Vec<_> = what.collect();
    let more = what.len().saturating_sub(3);
    what.truncate(3);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    what.join("; ") + &more
}

/// The machine for the next CVM: that with the fewest, the first of several.
pub(crate) fn least_used(nodes: &[NodeId], seen: &[Seen]) -> Option<NodeId> {
    let used = |node: &NodeId| seen.iter().filter(|seen| seen.cvm.node == Some(*node)).count();
    nodes.iter().min_by_key(|node| used(node)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: B256 = B256::repeat_byte(0x22);

    fn wanted(nodes: usize) -> Wanted {
        Wanted { nodes, composes: BTreeSet::from([HASH, B256::repeat_byte(0x23)]), relays: true }
    }

    fn token(id: u32) -> TokenId {
        TokenId::new(id).unwrap()
    }

    /// One that boots.
    fn young(name: &str) -> Seen {
        let cvm = Cvm {
            id: CvmId::new(name).unwrap(),
            name: name.to_owned(),
            state: CvmState::Changing,
            status: "starting".to_owned(),
            is_in_progress: true,
            instance: None,
            compose_hash: None,
            gateway: None,
            node: None,
        };
        Seen { cvm, ports: None, membership: Membership::NoToken }
    }

    /// One that runs.
    fn running(byte: u8, membership: Membership) -> Seen {
        let Seen { cvm, .. } = young(&format!("node-{byte}"));
        let cvm = Cvm {
            state: CvmState::Running,
            status: "running".to_owned(),
            is_in_progress: false,
            instance: Some(InstanceId([byte; 20])),
            compose_hash: Some(HASH),
            ..cvm
        };
        Seen { cvm, ports: None, membership }
    }

    fn member(byte: u8) -> Seen {
        running(byte, Membership::Member { token: token(byte.into()), endpoint: None })
    }

    fn planned(nodes: usize, seen: &[Seen]) -> Step {
        next(&wanted(nodes), seen, &Tried::default()).unwrap()
    }

    #[test]
    fn cvms_are_made_until_there_are_enough_and_the_first_boots_first() {
        assert_eq!(planned(3, &[]), Step::Create);
        assert_eq!(planned(3, &[young("a")]), Step::WaitFor("a boots".to_owned()));
        assert_eq!(planned(3, &[running(1, Membership::NoToken)]), Step::Create);
        assert_eq!(planned(3, &[running(1, Membership::NoToken), young("b")]), Step::Create, "others need not");
        assert_eq!(planned(1, &[young("a")]), Step::WaitFor("a boots (starting)".to_owned()));
        assert_eq!(planned(0, &[]), Step::Done);
    }

    #[test]
    fn each_node_gets_one_token_and_is_relayed_until_it_is_a_member() {
        let instance = InstanceId([2; 20]);
        let without = running(2, Membership::NoToken);
        assert_eq!(planned(2, &[member(1), without]), Step::Mint { instance });
        let bound = running(2, Membership::Bound(token(9)));
        let relay = Step::Relay { cvm: bound.cvm.id.clone(), instance, token: token(9) };
        assert_eq!(planned(2, &[member(1), bound.clone()]), relay);
        let tried = Tried { not_signed: BTreeMap::from([(instance, "no answer".to_owned())]), ..Tried::default() };
        let next_of =
            |wanted: &Wanted| next(wanted, &[bound.clone(), running(3, Membership::NoToken)], &tried).unwrap();
        assert_eq!(
            next_of(&wanted(2)),
            Step::Mint { instance: InstanceId([3; 20]) },
            "one that is not ready holds up no other"
        );
        let Step::WaitFor(what) = next(&wanted(1), std::slice::from_ref(&bound), &tried).unwrap() else {
            panic!("it waits")
        };
        assert_eq!(what, "node-2 signs its registration for token 9 (no answer)");
        let pays_itself = Wanted { relays: false, ..wanted(1) };
        let Step::WaitFor(what) = next(&pays_itself, &[bound], &Tried::default()).unwrap() else { panic!("it waits") };
        assert!(what.contains("its log names the address"), "{what}");
        assert_eq!(planned(2, &[member(1), member(2)]), Step::Done);
    }

    #[test]
    fn a_udp_port_is_mapped_and_told_before_the_token_is_minted() {
        let instance = InstanceId([2; 20]);
        let port = listen_port(instance);
        let node = |ports, membership| Seen { ports: Some(ports), ..running(2, membership) };
        let unmapped = node(Vec::new(), Membership::NoToken);
        let cvm = unmapped.cvm.id.clone();
        let map = || Step::MapUdp { cvm: cvm.clone(), instance, port };
        assert_eq!(planned(1, std::slice::from_ref(&unmapped)), map());
        let tried = Tried { mapped: [instance].into(), ..Tried::default() };
        let step = next(&wanted(1), &[unmapped], &tried).unwrap();
        assert!(
            matches!(&step, Step::WaitFor(what) if what.contains("lists the UDP port")),
            "{step:?}: not again and again"
        );
        let mapping = Mapping { vm_port: port, host_port: 31_000, host: Some("66.220.6.107".parse().unwrap()) };
        let of_other_port = Mapping { vm_port: port + 1, ..mapping };
        assert_eq!(planned(1, &[node(vec![of_other_port], Membership::NoToken)]), map());
        let endpoint = "66.220.6.107:31000".parse().unwrap();
        let mapped = node(vec![mapping], Membership::NoToken);
        assert_eq!(planned(1, std::slice::from_ref(&mapped)), Step::Advertise { cvm, instance, port, endpoint });
        let tried = Tried { advertised: BTreeSet::from([instance]), ..Tried::default() };
        assert_eq!(next(&wanted(1), &[mapped], &tried).unwrap(), Step::Mint { instance });
        let registered = Membership::Member { token: token(2), endpoint: Some(endpoint) };
        assert_eq!(planned(1, &[node(vec![mapping], registered)]), Step::Done, "what is registered is not set again");
        let nowhere = Mapping { host: None, ..mapping };
        assert_eq!(planned(1, &[node(vec![nowhere], Membership::NoToken)]), Step::Mint { instance });
    }

    #[test]
    fn what_waiting_does_not_mend_is_said() {
        let stuck = |nodes, seen: &[Seen]| next(&wanted(nodes), seen, &Tried::default()).unwrap_err();
        let mut other = member(1);
        other.cvm.compose_hash = Some(B256::repeat_byte(0x99));
        let said = stuck(2, &[other]);
        assert!(said.what.contains("another app-compose.json") && said.hint.contains("phala upgrade"), "{said:?}");
        assert!(stuck(1, &[member(1), member(2)]).what.contains("has 2 CVMs, and 1 were asked for"));
        let mut failed = young("a");
        failed.cvm.state = CvmState::Failed;
        assert!(stuck(3, &[failed]).hint.contains("boot gate"));
        let mut stopped = member(1);
        stopped.cvm.state = CvmState::Stopped;
        assert!(stuck(1, &[stopped]).what.contains("is stopped"));
        assert!(stuck(1, &[running(1, Membership::Revoked(token(7)))]).hint.contains("meshctl reinstate 7"));
    }

    #[test]
    fn many_that_are_waited_for_are_counted() {
        let many = (1..=5).map(|byte| format!("node-{byte} boots"));
        assert_eq!(waits_for(many), "node-1 boots; node-2 boots; node-3 boots; and 2 more");
    }

    #[test]
    fn cvms_are_spread_over_the_machines() {
        let on = |node| {
            let mut seen = member(1);
            seen.cvm.node = Some(NodeId(node));
            seen
        };
        let nodes = [NodeId(7), NodeId(8)];
        assert_eq!(least_used(&nodes, &[]), Some(NodeId(7)));
        assert_eq!(least_used(&nodes, &[on(7)]), Some(NodeId(8)));
        assert_eq!(least_used(&nodes, &[on(8), on(7)]), Some(NodeId(7)));
        assert_eq!(least_used(&[], &[on(7)]), None);
    }
}

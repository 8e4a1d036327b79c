//! RPC endpoints, honest and otherwise, and what k of n of them say: the rules are the product's (`mesh_core::quorum`, `behind`),
//! the order in which endpoints are asked is that of `Sources::read`.

use std::{rc::Rc, time::Duration};

use mesh_core::{
    agent::{Input, ProofRequest, SourceReport},
    behind::Agreed,
    id::{InstanceId, TokenId, WireguardKey},
    quorum,
    registration::{NetworkType, Proof, Registration},
    registry::{PeerRecord, Registry},
    status::{Quorum, SourceStatus},
};

use crate::{
    chain::{Block, Chain},
    cluster::{foreign, instance, member_address, mesh_address, token, wireguard_key},
    contract::record,
};

/// Numbers of nodes that exist in lies alone.
const INVENTED: usize = 200;

/// How old the state is that is shown for the present one.
const OLD: Duration = Duration::from_secs(12);

/// What a lying endpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// There is one more peer, whose proof is of another KMS.
    Invent,
    /// A peer has another WireGuard key.
    SwapKey,
    /// The last peer is not there.
    Hide,
    /// The state as it was before the lie began, at the hash of the newest block.
    OldState,
    /// The contract is that of another chain.
    OtherChain,
    /// What is final is the newest block.
    FinalizedEarly,
    /// Proofs are of another KMS.
    ForgedProofs,
}

impl Lie {
    /// Every lie.
    pub(crate) const ALL: [Self; 7] = [
        Self::Invent,
        Self::SwapKey,
        Self::Hide,
        Self::OldState,
        Self::OtherChain,
        Self::FinalizedEarly,
        Self::ForgedProofs,
    ];
}

/// One endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoint {
    /// How far behind the chain it is.
    pub(crate) lag: Duration,
    pub(crate) is_down: bool,
    /// It has seen nothing since then.
    pub(crate) frozen_at: Option<Duration>,
    /// What it says instead of the truth, and since when.
    pub(crate) lie: Option<(Lie, Duration)>,
}

impl Endpoint {
    /// It answers, tells the truth, and is hardly behind.
    pub(crate) fn is_honest(&self) -> bool {
        !self.is_down && self.lie.is_none() && self.frozen_at.is_none() && self.lag <= Duration::from_millis(200)
    }

    /// The block that it takes for the head.
    fn head(&self, chain: &Chain, now: Duration) -> Rc<Block> {
        let seen = self.frozen_at.unwrap_or(now).min(now).saturating_sub(self.lag);
        Rc::clone(chain.head_at(seen))
    }

    fn registry(&self, chain: &Chain, block: &Block, own: InstanceId, own_token: Option<TokenId>) -> Registry {
        let read = |state: &Block| state.state.read(block.at, block.finalized, own, own_token);
        let mut registry = match self.lie {
            Some((Lie::OldState, since)) => {
                let old = &chain.head_at(since.saturating_sub(OLD)).state;
                old.read(block.at, block.finalized, own, own_token)
            }
            _ => read(block),
        };
        match self.lie.map(|(lie, _)| lie) {
            Some(Lie::Invent) => {
                let record = record(&invented(), block.at.number);
                registry.peers.push(PeerRecord { kms_root: foreign().root_address(), ..record });
            }
            Some(Lie::SwapKey) => {
                if let Some(peer) = registry.peers.iter_mut().rfind(|peer| peer.instance != own) {
                    peer.wireguard_key = wireguard_key(INVENTED + 1);
                }
            }
            Some(Lie::Hide) => drop(registry.peers.pop_if(|peer| peer.instance != own)),
            Some(Lie::OtherChain) => registry.domain.chain_id += 1,
            Some(Lie::FinalizedEarly) => registry.finalized = Some(block.at.number),
            Some(Lie::OldState | Lie::ForgedProofs) | None => {}
        }
        registry
    }

    fn proof(&self, chain: &Chain, request: ProofRequest, now: Duration) -> Result<Box<Proof>, String> {
        let forged = matches!(self.lie, Some((Lie::Invent | Lie::SwapKey | Lie::ForgedProofs, _)));
        if self.is_down {
            return Err("no answer".to_owned());
        }
        if forged {
            let registration = Registration { token: request.token, ..invented() };
            return Ok(Box::new(foreign().prove(registration)));
        }
        let block = self.head(chain, now).ancestor(request.block);
        let proof = block.as_ref().and_then(|block| block.proof(request.token)).cloned();
        proof.map(Box::new).ok_or_else(|| "no such log".to_owned())
    }
}

/// The endpoints of one node, as it is told to read them.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// How many must say the same.
    pub(crate) need: usize,
    agreed: Agreed,
}

impl Sources {
    pub(crate) fn new(need: usize) -> Self {
        Self { need, agreed: Agreed::default() }
    }

    /// What the endpoints say now of the newest block on which enough of them agree.
    pub(crate) fn read(
        &mut self,
        endpoints: &[Endpoint],
        chain: &Chain,
        own: InstanceId,
        own_token: Option<TokenId>,
        now: Duration,
    ) -> Input {
        let up = |endpoint: &Endpoint| (!endpoint.is_down).then(|| endpoint.head(chain, now));
        let heads: Vec<Option<Rc<Block>>> = endpoints.iter().map(up).collect();
        let mut heights: Vec<u64> = heads.iter().flatten().map(|head| head.at.number).collect();
        heights.sort_unstable_by(|one, other| other.cmp(one));
        let mut heights = heights.split_off(heights.len().min(self.need - 1));
        heights.dedup();
        let mut first = None;
        for target in heights {
            let (outcome, report) = self.read_at(target, endpoints, &heads, chain, own, own_token);
            match outcome {
                Ok(registry) => return Input::Registry(Box::new(registry), report),
                Err(error) => first = first.or(Some((error, report))),
            }
        }
        let (error, report) = first.unwrap_or_else(|| ("no endpoint answers".to_owned(), self.report(&heads, &[], 0)));
        Input::ReadFailed(error, report)
    }

    fn read_at(
        &mut self,
        target: u64,
        endpoints: &[Endpoint],
        heads: &[Option<Rc<Block>>],
        chain: &Chain,
        own: InstanceId,
        own_token: Option<TokenId>,
    ) -> (Result<Registry, String>, SourceReport) {
        let (mut answers, mut behind) = (Vec::new(), Vec::new());
        for (index, (endpoint, head)) in endpoints.iter().zip(heads).enumerate() {
            let answer = match head {
                None => Err("no answer".to_owned()),
                Some(head) => match head.ancestor(target) {
                    Some(block) => Ok(endpoint.registry(chain, &block, own, own_token)),
                    None => {
                        behind.push((index, endpoint.registry(chain, head, own, own_token)));
                        Err("behind the others".to_owned())
                    }
                },
            };
            answers.push((format!("rpc{index}"), answer));
        }
        let mut agreement = quorum::agree(self.need, answers);
        if let Ok(agreed) = &agreement.outcome {
            let registries: Vec<&Registry> = behind.iter().map(|(_, registry)| registry).collect();
            for ((index, _), contradicts) in behind.iter().zip(self.agreed.judge(agreed, &registries)) {
                if contradicts {
                    agreement.agrees[*index] = Some(false);
                    agreement.disagree = true;
                }
            }
        }
        let mut report = self.report(heads, &agreement.agrees, agreement.have);
        report.disagree = agreement.disagree;
        (agreement.outcome.map_err(|error| error.to_string()), report)
    }

    fn report(&self, heads: &[Option<Rc<Block>>], agrees: &[Option<bool>], have: usize) -> SourceReport {
        let newest = heads.iter().flatten().map(|head| head.at.number).max();
        let status = |(index, head): (usize, &Option<Rc<Block>>)| SourceStatus {
            id: format!("rpc{index}"),
            kind: "rpc".to_owned(),
            ok: head.is_some(),
            agrees: agrees.get(index).copied().flatten(),
            lag_blocks: newest.zip(head.as_ref()).map(|(newest, head)| newest - head.at.number),
            latency_ms: None,
            content: None,
            error: head.is_none().then(|| "no answer".to_owned()),
        };
        SourceReport {
            sources: heads.iter().enumerate().map(status).collect(),
            quorum: Quorum { need: self.need, have },
            disagree: false,
            other_code: None,
        }
    }
}

/// What every endpoint says of each of these proofs. One that says what another said is not repeated.
pub(crate) fn proofs(endpoints: &[Endpoint], chain: &Chain, requests: &[ProofRequest], now: Duration) -> Input {
    let mut answers: Vec<(TokenId, Result<Box<Proof>, String>)> = Vec::new();
    for request in requests {
        let first = answers.len();
        for endpoint in endpoints {
            let answer = endpoint.proof(chain, *request, now);
            if answers[first..].iter().all(|(_, known)| *known != answer) {
                answers.push((request.token, answer));
            }
        }
    }
    Input::Proofs(answers)
}

/// A registration that no honest block carries.
fn invented() -> Registration {
    let node = INVENTED;
    Registration {
        token: token(node),
        instance: instance(node),
        member_address: member_address(instance(node)),
        wireguard_key: wireguard_key(node),
        tls_key: None,
        key_epoch: 1,
        network_type: NetworkType::Wireguard,
        endpoint: Some((mesh_host(node), 1).into()),
        gateway: None,
        deadline: u64::MAX,
    }
}

fn mesh_host(node: usize) -> std::net::Ipv4Addr {
    let [_, _, _, last] = mesh_address(token(node)).octets();
    [198, 51, 100, last].into()
}

/// Whether this key is known from lies alone.
pub(crate) fn is_invented(key: WireguardKey) -> bool {
    [INVENTED, INVENTED + 1].into_iter().any(|node| wireguard_key(node) == key)
}

//! What is there: the API's list of CVMs beside what the contract says of their instance ids; and waiting for it to change.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256};
use mesh_core::{
    id::{AppId, InstanceId, TokenId},
    registry::{NodeRecord, PeerRecord},
};
use tokio::time::{Instant, sleep};

use super::{
    super::{leaving, nodes},
    given::WaitArgs,
    policy::Policy,
};
use crate::{
    chain::Chain,
    failure::Failure,
    output::Printer,
    phala::{Api, Cvm, CvmId, Environment, KmsInfo, Membership, Seen, Stuck, verify_env_key},
};

/// The CVMs of an app whose contract is the cluster.
pub(super) struct Cluster<'a> {
    pub(super) api: &'a Api,
    pub(super) chain: &'a Chain,
    pub(super) contract: Address,
    /// Tokens of this account count; `None`: any do.
    owner: Option<Address>,
    /// Whether UDP ports are asked about, and for which CVMs there can be any.
    has_udp: bool,
    can_map: BTreeMap<CvmId, bool>,
}

impl<'a> Cluster<'a> {
    pub(super) const fn new(
        api: &'a Api,
        chain: &'a Chain,
        contract: Address,
        owner: Option<Address>,
        has_udp: bool,
    ) -> Self {
        Self { api, chain, contract, owner, has_udp, can_map: BTreeMap::new() }
    }

    /// The dstack app: its id is the contract's address.
    pub(super) fn app(&self) -> AppId {
        self.contract.into()
    }

    /// What is there now.
    pub(super) async fn look(&mut self) -> anyhow::Result<Vec<Seen>> {
        let cvms = self.api.cvms(self.app()).await.map_err(|error| error.failure("list the CVMs"))?;
        let nodes = nodes::all(self.chain, self.contract).await?;
        let peers = leaving::peers(self.chain, self.contract).await?;
        let mut seen = Vec::new();
        for cvm in cvms {
            let membership = membership(cvm.instance, &nodes, &peers, (self.app(), self.owner));
            let has_ports = cvm.instance.is_some() && self.can_map(&cvm).await?;
            let ports = if has_ports {
                let ports = self.api.udp_ports(&cvm.id).await;
                Some(ports.map_err(|error| error.failure(&format!("list the ports of {}", cvm.name)))?)
            } else {
                None
            };
            seen.push(Seen { cvm, ports, membership });
        }
        Ok(seen)
    }

    async fn can_map(&mut self, cvm: &Cvm) -> anyhow::Result<bool> {
        if !self.has_udp {
            return Ok(false);
        }
        if let Some(known) = self.can_map.get(&cvm.id) {
            return Ok(*known);
        }
        let can_map = self.api.can_map_ports(&cvm.id).await;
        let can_map = can_map.map_err(|error| error.failure(&format!("ask whether ports lead to {}", cvm.name)))?;
        self.can_map.insert(cvm.id.clone(), can_map);
        Ok(can_map)
    }

    /// Encrypts variables for the app's CVMs, with the key that this KMS names and its root has signed.
    pub(super) async fn seal(
        &self,
        environment: &Environment,
        kms: &KmsInfo,
        policy: &Policy<'_>,
    ) -> anyhow::Result<String> {
        let root = policy.trusted_root(kms).await?;
        let key = self.api.env_key(kms, self.app()).await;
        let key = key.map_err(|error| error.failure("ask for the key of the environment"))?;
        verify_env_key(&key, self.app(), &[root])?;
        environment.seal(&key.public_key)
    }

    /// The KMS that the contract is an app of.
    pub(super) async fn kms(&self, policy: &Policy<'_>) -> anyhow::Result<KmsInfo> {
        let listed = self.api.kms_instances().await.map_err(|error| error.failure("list the KMS instances"))?;
        for kms in listed {
            if kms.chain_id == self.chain.id && policy.is_registered(kms.contract).await.unwrap_or(false) {
                return Ok(kms);
            }
        }
        Err(Failure::new(format!(
            "Phala Cloud lists no KMS on chain {} that {} is an app of",
            self.chain.id, self.contract
        ))
        .hint("`meshctl phala deploy` registers it")
        .into())
    }
}

/// Of several tokens that are bound to one instance: the one that is a member, else the first. For one that is bound to another app no
/// CVM of this app could register.
fn membership(
    instance: Option<InstanceId>,
    nodes: &[NodeRecord],
    peers: &BTreeMap<TokenId, PeerRecord>,
    (app, owner): (AppId, Option<Address>),
) -> Membership {
    let Some(instance) = instance else { return Membership::NoToken };
    let is_ours = |node: &&NodeRecord| {
        (owner.is_none() || node.owner == owner) && node.bound_app_id.is_none_or(|bound| bound == app)
    };
    let own: Vec<_> = nodes.iter().filter(|node| node.instance == Some(instance)).filter(is_ours).collect();
    let Some(node) = own.iter().find(|node| node.active).or(own.first()) else { return Membership::NoToken };
    let token = node.token;
    if node.revoked {
        Membership::Revoked(token)
    } else if node.active {
        Membership::Member { token, endpoint: peers.get(&token).and_then(|peer| peer.endpoint) }
    } else {
        Membership::Bound(token)
    }
}

/// The API wrote another document than what was given: nothing was paid, and nothing made.
pub(super) fn other_document(hash: B256) -> Failure {
    Failure::new(format!(
        "Phala Cloud names compose hash {hash}, which is not that of what was given, in any text that it is known to write"
    ))
    .hint("nothing was made or paid; give `--gateway-domain` if it writes one; if you know what it wrote, `--compose-hash` takes it")
}

/// Waits, and says once for what.
pub(super) struct Waiting<'a> {
    printer: &'a Printer,
    /// How long nothing may happen.
    patience: Duration,
    interval: Duration,
    since: Instant,
    said: String,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(printer: &'a Printer, args: &WaitArgs) -> Self {
        let (patience, interval) = (args.patience(), args.interval);
        Self { printer, patience, interval, since: Instant::now(), said: String::new() }
    }

    /// Something has happened.
    pub(super) fn begin_again(&mut self) {
        self.since = Instant::now();
    }

    /// # Errors
    /// Nothing has happened for too long.
    pub(super) async fn wait_for(&mut self, what: &str) -> Result<(), Failure> {
        if self.since.elapsed() >= self.patience {
            let what =
                format!("gave up after {} s in which nothing happened, waiting until {what}", self.patience.as_secs());
            return Err(Failure::new(what).hint("run the same command again: it goes on from here"));
        }
        if self.said != what {
            self.printer.note(format!("waiting until {what}"));
            what.clone_into(&mut self.said);
        }
        sleep(self.interval).await;
        Ok(())
    }
}

impl From<Stuck> for Failure {
    fn from(Stuck { what, hint }: Stuck) -> Self {
        Self::new(what).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: InstanceId = InstanceId([0x11; 20]);
    const APP: AppId = AppId([0xab; 20]);

    fn node(id: u32, owner: u8, active: bool) -> NodeRecord {
        NodeRecord {
            token: TokenId::new(id).unwrap(),
            owner: Some(Address::repeat_byte(owner)),
            instance: Some(INSTANCE),
            member_address: None,
            bound_app_id: None,
            key_epoch: 1,
            endpoint_epoch: 0,
            active,
            revoked: false,
        }
    }

    #[test]
    fn tokens_of_others_count_for_nothing_where_one_s_own_are_asked_for() {
        let token = |id| TokenId::new(id).unwrap();
        let own = Some(Address::repeat_byte(1));
        let of = |nodes: &[NodeRecord], owner| membership(Some(INSTANCE), nodes, &BTreeMap::new(), (APP, owner));
        assert_eq!(of(&[node(1, 2, false)], own), Membership::NoToken, "where minting is public, anyone can bind one");
        assert_eq!(of(&[node(1, 2, false)], None), Membership::Bound(token(1)));
        assert_eq!(of(&[node(1, 2, false), node(3, 1, false)], own), Membership::Bound(token(3)));
        let member = Membership::Member { token: token(3), endpoint: None };
        assert_eq!(of(&[node(1, 1, false), node(3, 1, true)], own), member);
        let revoked = NodeRecord { revoked: true, ..node(1, 1, false) };
        assert_eq!(of(&[revoked], own), Membership::Revoked(token(1)));
        assert_eq!(membership(None, &[node(1, 1, true)], &BTreeMap::new(), (APP, own)), Membership::NoToken);
    }

    #[test]
    fn a_token_that_is_bound_to_another_app_is_none_of_this_ones() {
        let of = |bound| {
            let nodes = [NodeRecord { bound_app_id: bound, ..node(1, 1, false) }];
            membership(Some(INSTANCE), &nodes, &BTreeMap::new(), (APP, None))
        };
        let token = TokenId::new(1).unwrap();
        assert_eq!((of(None), of(Some(APP))), (Membership::Bound(token), Membership::Bound(token)));
        assert_eq!(of(Some(AppId([0xcd; 20]))), Membership::NoToken);
    }
}

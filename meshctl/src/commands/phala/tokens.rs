//! Which tokens go with the app's CVMs. The API says which instance ids there are, and could name those of another deployment: a token
//! counts only where the contract itself ties it to this app. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    id::{AppId, InstanceId, TokenId},
    registry::{NodeRecord, PeerRecord},
};
use serde::Serialize;

/// The tokens that are bound to the instance ids of CVMs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Tied to the app, ascending.
    pub(super) own: Vec<TokenId>,
    /// Not tied to it: they stay.
    pub(super) left: Vec<Left>,
}

/// A token that stays, and why.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    pub(super) token_id: TokenId,
    pub(super) why: String,
}

impl Tokens {
    /// A token is tied to an app by its binding, which only that app can register for; where the binding is to none, by the registration
    /// that the contract took, whose key chain was issued to the app.
    pub(super) fn of(
        app: AppId,
        instances: &BTreeSet<InstanceId>,
        nodes: &[NodeRecord],
        peers: &BTreeMap<TokenId, PeerRecord>,
    ) -> Self {
        let (mut own, mut left) = (Vec::new(), Vec::new());
        let bound = nodes.iter().filter(|node| node.instance.is_some_and(|instance| instances.contains(&instance)));
        for node in bound {
            let token_id = node.token;
            match (node.bound_app_id, peers.get(&token_id).map(|peer| peer.app_id)) {
                (Some(bound), _) if bound == app => own.push(token_id),
                (None, Some(registered)) if registered == app => own.push(token_id),
                (Some(other), _) => left.push(Left { token_id, why: format!("it is bound to app {other}") }),
                (None, Some(other)) => left.push(Left { token_id, why: format!("app {other} has registered for it") }),
                (None, None) => {
                    left.push(Left { token_id, why: "it is bound to no app, and not registered".to_owned() })
                }
            }
        }
        own.sort_unstable();
        left.sort_unstable_by_key(|left| left.token_id);
        Self { own, left }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use mesh_core::{id::WireguardKey, registration::NetworkType};

    use super::*;

    const APP: AppId = AppId([0xab; 20]);
    const OTHER: AppId = AppId([0xcd; 20]);
    const LISTED: InstanceId = InstanceId([0x11; 20]);

    fn token(id: u32) -> TokenId {
        TokenId::new(id).unwrap()
    }

    fn node(id: u32, instance: InstanceId, bound_app_id: Option<AppId>) -> NodeRecord {
        NodeRecord {
            token: token(id),
            owner: Some(Address::ZERO),
            instance: Some(instance),
            member_address: None,
            bound_app_id,
            key_epoch: 1,
            endpoint_epoch: 0,
            active: false,
            revoked: false,
        }
    }

    fn peer(id: u32, app_id: AppId) -> (TokenId, PeerRecord) {
        let record = PeerRecord {
            token: token(id),
            instance: LISTED,
            member_address: Address::ZERO,
            wireguard_key: WireguardKey([1; 32]),
            tls_key: None,
            key_epoch: 1,
            endpoint_epoch: 0,
            network_type: NetworkType::Wireguard,
            endpoint: None,
            gateway: None,
            kms_root: Address::ZERO,
            app_id,
            registered_block: 1,
        };
        (token(id), record)
    }

    fn of(nodes: &[NodeRecord], peers: &[(TokenId, PeerRecord)]) -> Tokens {
        Tokens::of(APP, &BTreeSet::from([LISTED]), nodes, &peers.iter().cloned().collect())
    }

    #[test]
    fn a_token_that_the_contract_ties_to_the_app_is_its_own() {
        let nodes = [node(9, LISTED, Some(APP)), node(2, LISTED, None), node(3, LISTED, Some(APP))];
        assert_eq!(of(&nodes, &[peer(2, APP)]), Tokens { own: vec![token(2), token(3), token(9)], left: Vec::new() });
        assert_eq!(of(&[node(1, InstanceId([0x22; 20]), Some(APP))], &[]).own, [], "no CVM of the list has it");
    }

    #[test]
    fn a_token_of_another_app_or_of_none_stays_though_the_api_lists_its_instance() {
        for (bound, registered, why) in [
            (Some(OTHER), None, "it is bound to app cdcd"),
            (Some(OTHER), Some(OTHER), "it is bound to app cdcd"),
            (None, Some(OTHER), "app cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd has registered for it"),
            (None, None, "it is bound to no app, and not registered"),
        ] {
            let peers: Vec<_> = registered.map(|app| peer(1, app)).into_iter().collect();
            let found = of(&[node(1, LISTED, bound)], &peers);
            let [Left { token_id, why: said }] = &found.left[..] else { panic!("it stays: {found:?}") };
            assert!(found.own.is_empty() && *token_id == token(1) && said.starts_with(why), "{said}");
        }
    }
}

//! Conversions: what converts comes back unchanged and hashes alike on both sides, what does not is refused, nothing panics.

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use alloy_sol_types::SolStruct as _;
use mesh_contract::{
    ConvertError, DstackClusterNFT::PeerRegistered, IDstackClusterNFT as abi, base_domains, domain, mesh_network,
};
use mesh_core::{
    id::TlsKey,
    registration::{Domain, EndpointUpdate, Proof, Registration},
    registry::{NodeRecord, PeerRecord},
};
use proptest::{prelude::*, strategy::Union};

/// Values at the edges more often than chance would have it.
fn edgy<const N: usize>() -> impl Strategy<Value = FixedBytes<N>> {
    Union::new_weighted(vec![(1, Just(FixedBytes::ZERO).boxed()), (3, any::<[u8; N]>().prop_map(FixedBytes).boxed())])
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), any::<u16>()]
}

prop_compose! {
    fn endpoint()(mapped in any::<bool>(), address in edgy::<16>(), port in port()) -> (FixedBytes<16>, u16) {
        let mut address = address;
        if mapped && !address.is_zero() {
            address.0[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        }
        (address, port)
    }
}

prop_compose! {
    fn registration()(
        token in prop_oneof![0..70_000_u64, any::<u64>()],
        (instance, member) in (edgy::<20>(), edgy::<20>()),
        key in edgy::<32>(),
        tls_key in edgy::<32>(),
        epoch in any::<u32>(),
        network_type in 0..4_u8,
        (address, port) in endpoint(),
        gateway in (edgy::<32>(), port()),
        deadline in any::<u64>(),
    ) -> abi::Registration {
        abi::Registration {
            tokenId: U256::from(token),
            instanceId: instance,
            memberAddress: Address::from(member.0),
            wireguardKey: key,
            tlsKey: tls_key,
            keyEpoch: epoch,
            networkType: network_type,
            endpointAddress: address,
            endpointPort: port,
            gatewayDomain: gateway.0,
            gatewayPort: gateway.1,
            deadline,
        }
    }
}

proptest! {
    #[test]
    fn a_registration_converts_exactly_when_it_can_be_honest(wire in registration(), chain_id: u64, at: [u8; 20]) {
        let honest = wire.tokenId != U256::ZERO
            && wire.tokenId <= U256::from(u32::MAX)
            && !wire.instanceId.is_zero()
            && wire.networkType < 2
            && wire.endpointAddress.is_zero() == (wire.endpointPort == 0)
            && wire.gatewayDomain.is_zero() == (wire.gatewayPort == 0);
        match Registration::try_from(wire.clone()) {
            Ok(registration) => {
                prop_assert!(honest);
                prop_assert_eq!(&abi::Registration::from(&registration), &wire);
                let contract = Address::from(at);
                prop_assert_eq!(
                    registration.digest(&Domain { chain_id, contract }),
                    wire.eip712_signing_hash(&domain(chain_id, contract))
                );
            }
            Err(error) => prop_assert!(!honest, "{error}"),
        }
    }

    #[test]
    fn an_endpoint_update_hashes_alike(wire in registration(), chain_id: u64, at: [u8; 20]) {
        let wire = abi::EndpointUpdate {
            tokenId: wire.tokenId,
            keyEpoch: wire.keyEpoch,
            endpointEpoch: wire.keyEpoch.rotate_left(7),
            endpointAddress: wire.endpointAddress,
            endpointPort: wire.endpointPort,
            gatewayDomain: wire.gatewayDomain,
            gatewayPort: wire.gatewayPort,
            deadline: wire.deadline,
        };
        if let Ok(update) = EndpointUpdate::try_from(wire.clone()) {
            prop_assert_eq!(&abi::EndpointUpdate::from(&update), &wire);
            let contract = Address::from(at);
            prop_assert_eq!(
                update.digest(&Domain { chain_id, contract }),
                wire.eip712_signing_hash(&domain(chain_id, contract))
            );
        }
    }
}

fn wire() -> abi::Registration {
    abi::Registration {
        tokenId: U256::from(7),
        instanceId: FixedBytes::repeat_byte(1),
        memberAddress: Address::repeat_byte(3),
        wireguardKey: B256::repeat_byte(2),
        tlsKey: B256::ZERO,
        keyEpoch: 3,
        networkType: 1,
        endpointAddress: FixedBytes::ZERO,
        endpointPort: 0,
        gatewayDomain: B256::ZERO,
        gatewayPort: 0,
        deadline: 4,
    }
}

#[test]
fn each_dishonest_value_is_named() {
    let refused = |change: fn(&mut abi::Registration)| {
        let mut registration = wire();
        change(&mut registration);
        Registration::try_from(registration).unwrap_err()
    };
    assert_eq!(refused(|r| r.tokenId = U256::ZERO), ConvertError::Token(U256::ZERO));
    assert_eq!(refused(|r| r.tokenId = U256::MAX), ConvertError::Token(U256::MAX));
    assert_eq!(refused(|r| r.networkType = 2), ConvertError::NetworkType(2));
    assert_eq!(
        refused(|r| r.instanceId = FixedBytes::ZERO).to_string(),
        "token 7 is registered without an instance id"
    );
    assert_eq!(refused(|r| r.endpointPort = 9), ConvertError::Endpoint { address: FixedBytes::ZERO, port: 9 });
    let domain = B256::repeat_byte(9);
    assert_eq!(refused(|r| r.gatewayDomain = B256::repeat_byte(9)), ConvertError::SignedGateway { domain, port: 0 });
}

#[test]
fn a_log_for_another_token_or_with_a_short_signature_is_no_proof() {
    let chain = abi::SignatureChain {
        nodeKeyX: B256::ZERO,
        nodeKeyY: B256::ZERO,
        appKeyX: B256::ZERO,
        appKeyY: B256::ZERO,
        appSignature: Bytes::from(vec![0; 65]),
        kmsSignature: Bytes::from(vec![0; 65]),
        appId: Address::ZERO,
    };
    let log = PeerRegistered {
        tokenId: U256::from(7),
        registration: wire(),
        chain,
        nodeSignature: Bytes::from(vec![0; 65]),
        memberSignature: Bytes::from(vec![0; 65]),
        nodeAddress: Address::ZERO,
        kmsRoot: Address::ZERO,
        epoch: 1,
    };
    Proof::try_from(log.clone()).unwrap();
    let mut other = log.clone();
    other.tokenId = U256::from(8);
    assert!(matches!(Proof::try_from(other), Err(ConvertError::LogToken { .. })));
    for (which, change) in [
        ("node", (|log| log.nodeSignature = Bytes::from(vec![0; 64])) as fn(&mut PeerRegistered)),
        ("member", |log| log.memberSignature = Bytes::new()),
        ("app", |log| log.chain.appSignature = Bytes::new()),
        ("KMS", |log| log.chain.kmsSignature = Bytes::from(vec![0; 66])),
    ] {
        let mut short = log.clone();
        change(&mut short);
        let Err(ConvertError::SignatureLength { which: named, .. }) = Proof::try_from(short) else {
            panic!("{which} signature of a wrong length was accepted");
        };
        assert_eq!(named, which);
    }
}

#[test]
fn zeros_of_a_node_are_absences() {
    let node = abi::Node {
        tokenId: U256::from(7),
        owner: Address::ZERO,
        instanceId: FixedBytes::ZERO,
        memberAddress: Address::ZERO,
        boundAppId: Address::ZERO,
        keyEpoch: 5,
        endpointEpoch: 6,
        active: false,
        revoked: true,
    };
    let record = NodeRecord::try_from(node.clone()).unwrap();
    assert_eq!((record.owner, record.instance, record.member_address), (None, None, None));
    assert_eq!(record.bound_app_id, None);
    assert_eq!((record.key_epoch, record.endpoint_epoch, record.revoked), (5, 6, true));
    let beyond = abi::Node { tokenId: U256::from(1_u64 << 32), ..node };
    assert!(matches!(NodeRecord::try_from(beyond), Err(ConvertError::Token(_))));
}

#[test]
fn a_peer_without_an_instance_is_refused() {
    let peer = abi::Peer {
        tokenId: U256::from(7),
        instanceId: FixedBytes::ZERO,
        memberAddress: Address::ZERO,
        wireguardKey: B256::ZERO,
        tlsKey: B256::ZERO,
        keyEpoch: 1,
        endpointEpoch: 0,
        networkType: 1,
        endpointAddress: FixedBytes::ZERO,
        endpointPort: 0,
        gatewayDomain: 0,
        gatewayPort: 0,
        kmsRoot: Address::ZERO,
        appId: Address::ZERO,
        registeredBlock: u64::MAX,
    };
    assert!(matches!(PeerRecord::try_from(peer.clone()), Err(ConvertError::ZeroInstance(_))));
    let bound = abi::Peer { instanceId: FixedBytes::repeat_byte(1), ..peer };
    let record = PeerRecord::try_from(bound.clone()).unwrap();
    assert_eq!((record.registered_block, record.tls_key), (u64::MAX, None));
    let with_key = abi::Peer { tlsKey: B256::repeat_byte(2), ..bound };
    assert_eq!(PeerRecord::try_from(with_key).unwrap().tls_key, Some(TlsKey([2; 32])));
}

#[test]
fn networks_and_domains() {
    let network = mesh_network(FixedBytes([10, 0, 1, 0]), 24).unwrap();
    assert_eq!(network.network().to_string(), "10.0.1.0/24");
    assert!(mesh_network(FixedBytes([10, 0, 1, 1]), 24).is_err());
    assert!(mesh_network(FixedBytes([10, 0, 1, 0]), 255).is_err());
    let domains = vec!["a.example.com".to_owned(), String::new()];
    assert_eq!(base_domains(domains), [Some("a.example.com".to_owned()), None]);
}

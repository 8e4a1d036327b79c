//! Tells fronts, dialers and applications who may talk now, as the core has decided it.

use std::{convert::Infallible, io, sync::Arc};

use mesh_core::{
    agent::{GatewayPlace, TlsMember, TlsMembers},
    id::TlsKey,
    status::NodeKind,
};
use mesh_front::{Member, Members, Place, SpkiSha256, Trust};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// The members as the driver publishes them, for connections; `epoch` is when the core's clock began. Before the first, there are none,
/// and when the driver ends, every connection does.
pub(in crate::run) fn follow(
    mut seen: watch::Receiver<TlsMembers>,
    epoch: Instant,
    background: &mut JoinSet<io::Result<Infallible>>,
) -> watch::Receiver<Arc<Members>> {
    let (sender, members) = watch::channel(Arc::new(Members::none()));
    background.spawn(async move {
        while seen.changed().await.is_ok() {
            sender.send_replace(Arc::new(convert(&seen.borrow_and_update(), epoch)));
        }
        // The driver has ended, and ends this: no one is let in meanwhile.
        drop(sender);
        std::future::pending().await
    });
    members
}

fn convert(seen: &TlsMembers, epoch: Instant) -> Members {
    let own = seen.members.values().find(|member| member.is_own).map(|member| member.token);
    let member = |(key, member): (&TlsKey, &TlsMember)| {
        let place = member.place.as_ref().and_then(|place| place_of(place, member.kind));
        (member.token, Member { key: SpkiSha256(key.0), place })
    };
    let trust = seen.expires_at.map_or(Trust::Always, |at| Trust::Until(epoch + at));
    Members::new(own, seen.members.iter().map(member), trust)
}

/// At the registered port of a WireGuard node, its agent takes streams of datagrams: its fronts have other ports.
fn place_of(place: &GatewayPlace, kind: NodeKind) -> Option<Place> {
    let port = match kind {
        NodeKind::Tls => Some(place.port),
        NodeKind::Wireguard => None,
    };
    // The core takes a domain of this form alone.
    Some(Place { instance: place.instance, port, domain: place.domain.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

    use mesh_core::id::{InstanceId, TokenId};
    use mesh_front::CutOff;

    use super::*;

    fn member(token: u32, kind: NodeKind) -> TlsMember {
        TlsMember {
            token: TokenId::new(token).unwrap(),
            kind,
            is_own: token == 1,
            address: None,
            place: Some(GatewayPlace {
                instance: InstanceId([7; 20]),
                port: NonZeroU16::new(8443).unwrap(),
                domain: "gw.example:9443".to_owned(),
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_driver_publishes_is_in_force() {
        let epoch = Instant::now();
        let (sender, seen) = watch::channel(TlsMembers::default());
        let mut background = JoinSet::new();
        let mut members = follow(seen, epoch, &mut background);
        let (other, third) = (TokenId::new(2).unwrap(), TokenId::new(3).unwrap());
        assert_eq!(members.borrow_and_update().of_token(other, Instant::now()), Err(CutOff::Expired));
        let list = BTreeMap::from([
            (TlsKey([1; 32]), member(1, NodeKind::Tls)),
            (TlsKey([2; 32]), member(2, NodeKind::Tls)),
            (TlsKey([3; 32]), member(3, NodeKind::Wireguard)),
        ]);
        let until = Duration::from_secs(30);
        sender.send_replace(TlsMembers { members: Arc::new(list), expires_at: Some(until) });
        members.changed().await.unwrap();
        {
            let seen = members.borrow_and_update();
            assert_eq!(seen.own(), TokenId::new(1));
            let place = seen.of_token(other, Instant::now()).unwrap().place.clone().unwrap();
            assert_eq!((place.port, place.domain.port().get()), (NonZeroU16::new(8443), 9443));
            let wireguard = seen.of_token(third, Instant::now()).unwrap().place.clone().unwrap();
            assert_eq!(wireguard.port, None, "its agent's streams are there");
            assert_eq!(seen.with_key(SpkiSha256([2; 32]), epoch + until), Err(CutOff::Expired));
        }
        sender.send_replace(TlsMembers::default());
        members.changed().await.unwrap();
        assert_eq!(members.borrow_and_update().of_token(other, Instant::now()), Err(CutOff::OwnLeft));
        drop(sender);
        assert!(members.changed().await.is_err(), "the driver has ended");
    }
}

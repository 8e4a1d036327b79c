//! An upgrade of a cluster: one CVM at a time, and the next when the one before is back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;

use super::{
    Cvm, CvmId, CvmState, Membership, Seen, Stuck,
    plan::{refuse_broken, waits_for},
};

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpgradeStep {
    /// This one gets the new app-compose.json.
    Change(CvmId),
    /// Nothing is changed before this has happened.
    WaitFor(String),
    Done,
}

/// The next step. `composes`: the compose hashes of what is to run; `changed`: what was changed in this run, with the compose hash that
/// it had before; `is_ready`: whether a CVM's agent says that its mesh can be used, where it can be asked.
pub(crate) fn next_upgrade(
    composes: &BTreeSet<B256>,
    seen: &[Seen],
    changed: &BTreeMap<CvmId, Option<B256>>,
    is_ready: impl Fn(&Cvm) -> bool,
) -> Result<UpgradeStep, Stuck> {
    for node in seen {
        refuse_broken(&node.cvm, node.membership)?;
    }
    let is_new = |cvm: &Cvm| cvm.compose_hash.is_some_and(|hash| composes.contains(&hash));
    let is_settled = |cvm: &Cvm| cvm.state == CvmState::Running && !cvm.is_in_progress;
    let is_member = |node: &Seen| matches!(node.membership, Membership::Member { .. });
    let is_changed = |cvm: &Cvm| is_new(cvm) || changed.contains_key(&cvm.id);
    let is_back = |node: &Seen| is_settled(&node.cvm) && is_new(&node.cvm) && is_member(node) && is_ready(&node.cvm);
    for Seen { cvm, .. } in seen {
        let Some(before) = changed.get(&cvm.id).filter(|_| is_settled(cvm) && !is_new(cvm)) else { continue };
        // The list may still show what was before.
        if let Some(runs) = cvm.compose_hash.filter(|hash| Some(*hash) != *before) {
            return Err(Stuck {
                what: format!("{} was updated, and its compose hash is {runs}: not that of what was given", cvm.name),
                hint: "the others are as they were; look at what it runs in Phala Cloud".to_owned(),
            });
        }
    }
    let away = |node: &&Seen| !is_settled(&node.cvm) || (is_changed(&node.cvm) && !is_back(node));
    let waiting: Vec<_> = seen.iter().filter(away).map(|node| format!("{} is back", node.cvm.name)).collect();
    if !waiting.is_empty() {
        return Ok(UpgradeStep::WaitFor(waits_for(waiting.into_iter())));
    }
    // What is out already takes nothing from the mesh.
    let old = seen.iter().filter(|node| !is_new(&node.cvm));
    Ok(match old.min_by_key(|node| is_member(node)) {
        Some(node) => UpgradeStep::Change(node.cvm.id.clone()),
        None => UpgradeStep::Done,
    })
}

#[cfg(test)]
mod tests {
    use mesh_core::id::{InstanceId, TokenId};

    use super::*;

    const OLD: B256 = B256::repeat_byte(0x11);
    const NEW: B256 = B256::repeat_byte(0x22);

    fn node(byte: u8, compose_hash: B256) -> Seen {
        let cvm = Cvm {
            id: CvmId::new(&format!("node-{byte}")).unwrap(),
            name: format!("node-{byte}"),
            state: CvmState::Running,
            status: "running".to_owned(),
            is_in_progress: false,
            instance: Some(InstanceId([byte; 20])),
            compose_hash: Some(compose_hash),
            gateway: None,
            node: None,
        };
        let token = TokenId::new(byte.into()).unwrap();
        Seen { cvm, ports: None, membership: Membership::Member { token, endpoint: None } }
    }

    fn planned(seen: &[Seen], changed: &[&str], not_ready: &[&str]) -> Result<UpgradeStep, Stuck> {
        let changed = changed.iter().map(|id| (CvmId::new(id).unwrap(), Some(OLD))).collect();
        next_upgrade(&BTreeSet::from([NEW]), seen, &changed, |cvm| !not_ready.contains(&cvm.name.as_str()))
    }

    fn change(id: &str) -> UpgradeStep {
        UpgradeStep::Change(CvmId::new(id).unwrap())
    }

    #[test]
    fn one_at_a_time_and_the_next_when_it_is_back() {
        let all_old = [node(1, OLD), node(2, OLD)];
        assert_eq!(planned(&all_old, &[], &[]).unwrap(), change("node-1"));
        let mut updating = [node(1, OLD), node(2, OLD)];
        updating[0].cvm.is_in_progress = true;
        let waits = UpgradeStep::WaitFor("node-1 is back".to_owned());
        assert_eq!(planned(&updating, &["node-1"], &[]).unwrap(), waits);
        let changed = [node(1, NEW), node(2, OLD)];
        assert_eq!(planned(&changed, &["node-1"], &["node-1"]).unwrap(), waits, "its agent is not ready yet");
        assert_eq!(planned(&changed, &["node-1"], &[]).unwrap(), change("node-2"));
        assert_eq!(planned(&changed, &[], &[]).unwrap(), change("node-2"), "a run that was cut short goes on");
        assert_eq!(planned(&[node(1, NEW), node(2, NEW)], &["node-2"], &[]).unwrap(), UpgradeStep::Done);
        assert_eq!(planned(&[], &[], &[]).unwrap(), UpgradeStep::Done);
    }

    #[test]
    fn a_changed_node_that_is_no_member_holds_up_the_others() {
        let mut out = node(1, NEW);
        out.membership = Membership::Bound(TokenId::new(1).unwrap());
        assert_eq!(planned(&[out, node(2, OLD)], &[], &[]).unwrap(), UpgradeStep::WaitFor("node-1 is back".to_owned()));
    }

    #[test]
    fn a_node_that_is_out_already_is_changed_first() {
        let mut out = node(2, OLD);
        out.membership = Membership::Bound(TokenId::new(2).unwrap());
        assert_eq!(planned(&[node(1, OLD), out, node(3, OLD)], &[], &["node-2"]).unwrap(), change("node-2"));
    }

    #[test]
    fn another_hash_after_the_change_stops_it() {
        let late = planned(&[node(1, OLD), node(2, OLD)], &["node-1"], &[]).unwrap();
        assert_eq!(late, UpgradeStep::WaitFor("node-1 is back".to_owned()), "the list shows what was before");
        let said = planned(&[node(1, B256::repeat_byte(0x33)), node(2, OLD)], &["node-1"], &[]).unwrap_err();
        assert!(said.what.contains("node-1 was updated, and its compose hash is 0x3333"), "{said:?}");
        let mut failed = [node(1, OLD)];
        failed[0].cvm.state = CvmState::Failed;
        assert!(planned(&failed, &[], &[]).is_err());
    }
}

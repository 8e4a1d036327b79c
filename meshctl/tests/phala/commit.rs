//! The last step of what makes or changes a CVM, which Phala Cloud lets depend on the chain (its statuses 465 to 468): what it refuses
//! is said with what to do, nothing is paid twice, and the same command goes on once it does not refuse any more.

use serde_json::{Value, json};

use crate::{
    Workspace,
    cloud::{Fault, State},
    upgrade::upgrade,
};

/// Refusals as the API publishes them, and the beginning of what is advised.
const REFUSALS: [((u16, &str), &str); 3] = [
    ((466, "ERR-01-006"), "hint: the API has forgotten this compose hash: run the same command again\n"),
    ((467, "ERR-01-007"), "hint: the API does not see the transaction yet: run the same command again in a minute\n"),
    (
        (468, "ERR-01-008"),
        "hint: the API does not see that the contract allows this compose hash: if `meshctl compose list`",
    ),
];

/// How often a request was answered so.
fn answered(state: &State, request: &str, status: u16) -> usize {
    let ending = format!(" {status}");
    state.log.iter().filter(|line| line.starts_with(request) && line.ends_with(&ending)).count()
}

/// A command that the API refuses in its last step.
fn refused(workspace: &Workspace, command: std::process::Command, (status, code): (u16, &'static str), advice: &str) {
    workspace.cloud.state().refused = Some((status, code));
    let (exit, _, errors) = workspace.run(command);
    assert_eq!(exit, 1, "{errors}");
    assert!(errors.contains(&format!("(HTTP status {status}, {code}): Refused\n")), "{errors}");
    assert!(errors.contains(advice), "{errors}");
    workspace.cloud.state().refused = None;
}

#[test]
fn the_first_cvm_is_made_once_the_api_sees_the_chain() {
    let workspace = Workspace::new(None);
    let mut paid = None;
    for (refusal, advice) in REFUSALS {
        refused(&workspace, workspace.deploy("1", &[]), refusal, advice);
        assert!(workspace.cloud.state().vms.is_empty(), "nothing is made");
        let height = workspace.world.height();
        assert_eq!(*paid.get_or_insert_with(|| height.clone()), height, "what is allowed is not paid for again");
    }
    let report = workspace.json(workspace.deploy("1", &[]));
    assert_eq!(report["nodes"][0]["state"], "member");
    // The token and the registration: KMS, compose hash and device were settled before.
    assert_eq!(report["transactions"].as_array().unwrap().len(), 2);
}

#[test]
fn a_further_cvm_is_made_in_two_steps_where_the_api_asks_for_them() {
    let workspace = Workspace::new(Some(Fault::TwoSteps));
    workspace.json(workspace.deploy("1", &[]));
    for (refusal, advice) in REFUSALS {
        refused(&workspace, workspace.deploy("2", &[]), refusal, advice);
        assert_eq!(workspace.cloud.state().vms.len(), 1, "nothing is made");
    }
    // It is asked to have allowed what is allowed, even when that was shown to it.
    let not_seen = "cannot make a further CVM: Phala Cloud does not see that the contract allows it\nhint: run the same command again";
    workspace.cloud.state().refused = Some((465, "ERR-01-005"));
    let before = workspace.world.height();
    let (exit, _, errors) = workspace.run(workspace.deploy("2", &[]));
    assert!(exit == 1 && errors.contains(not_seen), "{errors}");
    assert_eq!(workspace.world.height(), before, "nothing is paid");
    workspace.cloud.state().refused = None;

    let report = workspace.json(workspace.deploy("2", &[]));
    assert!(report["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "member"), "{report}");
    let state = workspace.cloud.state();
    assert_eq!((answered(&state, "POST /apps/", 465), answered(&state, "POST /apps/", 200)), (6, 1));
}

#[test]
fn an_update_goes_on_once_the_api_sees_the_chain() {
    let workspace = Workspace::new(None);
    workspace.json(workspace.deploy("1", &[]));
    let mut hashes = Vec::new();
    for (at, (refusal, advice)) in REFUSALS.into_iter().enumerate() {
        workspace.write_compose(&format!("version {at}"));
        refused(&workspace, upgrade(&workspace, &[]), refusal, advice);
        // The hash is allowed by now: the same command needs no second step, and pays for nothing.
        let before = workspace.world.height();
        let report = workspace.json(upgrade(&workspace, &[]));
        assert_eq!((&report["transactions"], &report["nodes"][0]["state"]), (&json!([]), &json!("member")));
        assert_eq!(workspace.world.height(), before);
        hashes.push(report["nodes"][0]["compose_hash"].clone());
    }
    hashes.dedup();
    assert!(hashes.len() == REFUSALS.len() && !hashes.contains(&Value::Null), "{hashes:?}");
}

//! Another compose file for a cluster that runs.

use serde_json::json;

use crate::{
    Workspace,
    cloud::{Fault, State},
    inside,
    resume::kill_when,
};

pub(crate) fn upgrade(workspace: &Workspace, more: &[&str]) -> std::process::Command {
    let sources = workspace.sources();
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    workspace.command(&[&["upgrade"], &sources[..], more].concat())
}

#[test]
fn nodes_are_upgraded_one_at_a_time_and_stay_members() {
    let workspace = Workspace::new(None);
    let deployed = workspace.json(workspace.deploy("3", &[]));
    workspace.write_compose("2");
    let stuck = workspace.run(workspace.deploy("3", &[]));
    assert!(stuck.0 == 1 && stuck.2.contains("runs another app-compose.json"), "{}", stuck.2);

    let outline = workspace.json(upgrade(&workspace, &["--dry-run"]));
    assert_eq!((outline["changed"].as_array().unwrap().len(), &outline["unchanged"]), (3, &json!([])));
    let report = workspace.json(upgrade(&workspace, &[]));
    let before = workspace.world.height();
    let (old, new) = (deployed["nodes"].as_array().unwrap(), report["nodes"].as_array().unwrap());
    assert_eq!(new.len(), 3);
    for (old, new) in old.iter().zip(new) {
        assert_ne!(old["compose_hash"], new["compose_hash"]);
        for same in ["instance_id", "token_id", "state", "endpoint"] {
            assert_eq!(old[same], new[same], "{same}");
        }
    }
    assert_eq!(report["transactions"].as_array().unwrap().len(), 1, "one hash is allowed");
    let state = workspace.cloud.state();
    assert_eq!(state.updating_at_once, 1);
    for vm in &state.vms {
        let variables = inside::open(&vm.encrypted_env).unwrap();
        assert_eq!(
            variables["P2P_LISTEN_PORT"],
            vm.udp.unwrap().0.to_string(),
            "an environment is replaced as a whole"
        );
    }
    drop(state);

    let again = workspace.json(upgrade(&workspace, &[]));
    assert_eq!((&again["transactions"], &again["nodes"]), (&json!([]), &report["nodes"]));
    assert_eq!(workspace.world.height(), before);
}

#[test]
fn a_killed_upgrade_goes_on() {
    let workspace = Workspace::new(None);
    workspace.json(workspace.deploy("2", &[]));
    workspace.write_compose("2");
    let updates = |state: &State| state.vms.iter().any(|vm| vm.status == "updating");
    kill_when(&workspace, upgrade(&workspace, &[]), updates);
    let report = workspace.json(upgrade(&workspace, &[]));
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes[0]["compose_hash"], nodes[1]["compose_hash"]);
    let state = workspace.cloud.state();
    let confirmed = state.log.iter().filter(|line| line.starts_with("PATCH /cvms/") && line.ends_with(" 465")).count();
    assert_eq!((state.updating_at_once, confirmed), (1, 1), "one at a time, and the hash is allowed once");
}

#[test]
fn another_document_than_was_given_is_not_allowed() {
    let workspace = Workspace::new(None);
    workspace.json(workspace.deploy("1", &[]));
    workspace.cloud.state().fault = Some(Fault::OtherDocument);
    workspace.write_compose("2");
    let before = workspace.world.height();
    let (code, _, errors) = workspace.run(upgrade(&workspace, &[]));
    assert!(code == 1 && errors.contains("which is not that of what was given"), "{errors}");
    assert_eq!(workspace.world.height(), before, "nothing is allowed in the contract");
}

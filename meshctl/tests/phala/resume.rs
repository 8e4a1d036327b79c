//! A deployment that is killed goes on where it was: nothing is made, minted or submitted twice.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Workspace,
    cloud::{Fault, State},
};

/// Starts a deployment of three and kills it as soon as the stand-in's state is such.
fn killed_when(workspace: &Workspace, is_reached: impl Fn(&State) -> bool) {
    kill_when(workspace, workspace.deploy("3", &[]), is_reached);
}

/// The same for any command.
pub(crate) fn kill_when(workspace: &Workspace, mut command: Command, is_reached: impl Fn(&State) -> bool) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_reached(&workspace.cloud.state()) {
        assert!(Instant::now() < deadline, "it never came so far");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it came so far");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_deployment_goes_on_and_does_nothing_twice() {
    let workspace = Workspace::new(None);
    killed_when(&workspace, |state| !state.provisioned.is_empty());
    killed_when(&workspace, |state| !state.vms.is_empty());
    killed_when(&workspace, |state| state.vms.len() >= 2);
    killed_when(&workspace, |state| state.vms.iter().any(|vm| vm.udp.is_some()));
    killed_when(&workspace, |state| state.granted("PATCH ") >= 3);
    killed_when(&workspace, |state| state.world().state(1) != "absent");
    let report = workspace.json(workspace.deploy("3", &[]));
    assert!(report["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "member"), "{report}");
    let state = workspace.cloud.state();
    assert_eq!((state.granted("POST /cvms "), state.granted("POST /apps/"), state.vms.len()), (1, 2, 3));
    drop(state);
    assert_eq!(workspace.tokens(), 3);
}

/// The answer to a creation is lost: what became of it is looked up, not guessed.
#[test]
fn a_creation_without_an_answer_is_not_repeated() {
    let workspace = Workspace::new(Some(Fault::SilentCreation));
    let (code, _, errors) = workspace.run(workspace.deploy("1", &[]));
    assert!(
        code == 1 && errors.contains("cannot make the CVM prod-db-1: Phala Cloud's API is not reached"),
        "{errors}"
    );
    assert_eq!(workspace.cloud.state().vms.len(), 1);
    let report = workspace.json(workspace.deploy("1", &[]));
    assert_eq!((&report["nodes"][0]["state"], workspace.cloud.state().vms.len()), (&json!("member"), 1));
}

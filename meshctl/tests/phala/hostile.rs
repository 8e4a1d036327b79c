//! An API that lies, floods or talks to the terminal: it stops the command before anything is paid, and learns no secret.

use alloy_primitives::Address;
use anvil::KEY;

use crate::{
    Workspace, anvil,
    cloud::{API_KEY, Fault},
    kms::{self, Registering},
};

/// What `deploy` says to it; nothing was sent, nothing made.
fn stopped_by(fault: Fault) -> String {
    let workspace = Workspace::new(Some(fault));
    let before = workspace.world.height();
    let (code, _, errors) = workspace.run(workspace.deploy("1", &[]));
    assert_eq!(code, 1, "{errors}");
    assert_eq!(workspace.world.height(), before, "something was paid: {errors}");
    assert!(workspace.cloud.state().vms.is_empty(), "{errors}");
    errors
}

#[test]
fn another_document_than_was_given_stops_it_before_anything_is_paid() {
    let errors = stopped_by(Fault::OtherDocument);
    assert!(
        errors.contains("which is not that of what was given") && errors.contains("\nhint: nothing was made"),
        "{errors}"
    );
}

#[test]
fn no_secret_is_encrypted_to_a_key_that_the_kms_root_has_not_signed() {
    let errors = stopped_by(Fault::WrongSignature);
    assert!(
        errors.contains("refused to encrypt the environment") && errors.contains("no KMS root of the contract"),
        "{errors}"
    );
}

/// It could burn gas, and answers everything as the right one does.
#[test]
fn no_other_contract_than_the_expected_kms_is_paid() {
    let errors = stopped_by(Fault::OtherKms);
    assert!(
        errors.contains(&format!(
            "names DstackKms {} for its KMS `base-test`, and not {}",
            shown(kms::OTHER),
            shown(kms::ADDRESS)
        )),
        "{errors}"
    );
    assert!(
        errors.contains(&format!(
            "\nhint: nothing was sent to it: only if you know it to be the right one, `--kms-contract {}`",
            shown(kms::OTHER)
        )),
        "{errors}"
    );

    let workspace = Workspace::new(None);
    let sources = workspace.sources();
    let sources = sources.iter().map(String::as_str);
    let arguments: Vec<_> = ["deploy", "--nodes", "1", "--name", "prod-db"].into_iter().chain(sources).collect();
    let (code, _, errors) = workspace.run(workspace.command(&arguments));
    assert!(
        code == 64 && errors.contains("no DstackKms of Phala Cloud is known on chain 31337\nhint: name the one"),
        "{errors}"
    );
}

fn shown(address: &str) -> Address {
    address.parse().unwrap()
}

/// The right contract, upgraded to something else.
#[test]
fn a_registration_that_takes_more_gas_than_it_should_is_not_sent() {
    let workspace = Workspace::new(None);
    kms::install(&workspace.world, kms::ADDRESS, Registering::BurnsGas);
    let before = workspace.world.height();
    let (code, _, errors) = workspace.run(workspace.deploy("1", &[]));
    assert!(code == 1 && errors.contains("and this call should take 200000 at most"), "{errors}");
    assert_eq!(workspace.world.height(), before, "nothing is paid");
}

/// The stand-in tells every name with the key in it; no output has it, which `Workspace::run` asserts.
#[test]
fn the_api_key_is_cut_out_of_what_the_api_says() {
    let workspace = Workspace::new(Some(Fault::RepeatsKey));
    let report = workspace.json(workspace.deploy("1", &[]));
    assert_eq!(report["nodes"][0]["name"], "prod-db-1 [redacted]");
}

#[test]
fn an_answer_without_an_end_is_not_read() {
    let errors = stopped_by(Fault::Flood);
    assert!(errors.contains("its answer is longer than 8192 KiB"), "{errors}");
}

#[test]
fn instance_ids_without_an_end_do_not_empty_the_operators_account() {
    let workspace = Workspace::new(Some(Fault::ShiftingInstances));
    let (code, _, errors) = workspace.run(workspace.deploy("1", &["--no-udp"]));
    assert!(code == 1 && errors.contains("names ever new instance ids: 1 tokens were minted"), "{errors}");
    assert_eq!(workspace.tokens(), 1);
}

#[test]
fn names_from_the_api_act_on_no_terminal() {
    let workspace = Workspace::new(Some(Fault::HostileNames));
    let report = workspace.json(workspace.deploy("1", &[]));
    let name = report["nodes"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("prod-db-1\\u{1b}]0;owned"), "{name}");
}

#[test]
fn what_is_missing_or_wrong_is_said_before_anything_is_asked() {
    let workspace = Workspace::new(None);
    let refused = |command: std::process::Command| {
        let (code, _, errors) = workspace.run(command);
        assert_ne!(code, 0, "{errors}");
        errors
    };
    let mut without_key = workspace.deploy("1", &[]);
    without_key.env_remove("PHALA_CLOUD_API_KEY");
    assert!(refused(without_key).contains("no API key of Phala Cloud given\nhint: set PHALA_CLOUD_API_KEY"));
    let mut wrong_key = workspace.deploy("1", &[]);
    wrong_key.env("PHALA_CLOUD_API_KEY", "phak_0therS3CRET");
    let errors = refused(wrong_key);
    assert!(errors.contains("no such key: [redacted]") && errors.contains("check PHALA_CLOUD_API_KEY"), "{errors}");
    let open = workspace.write("key", API_KEY, 0o644);
    assert!(refused(workspace.deploy("1", &["--api-key-file", &open])).contains("others may read"));
    let plain = refused(workspace.deploy("1", &["--api-url", "http://192.0.2.1/api/v1"]));
    assert!(plain.contains("an API key does not go over http://"), "{plain}");

    workspace.write("docker-compose.yml", "services:\n  a:\n    image: a:latest\n", 0o644);
    let errors = refused(workspace.deploy("1", &[]));
    assert!(errors.contains("line 3: image `a:latest` has no digest") && errors.contains("--allow-tags"), "{errors}");
    workspace.write_compose("1");
    workspace.write("secrets.env", "A S3CRET\n", 0o600);
    assert!(refused(workspace.deploy("1", &[])).contains("line 1 is not NAME=VALUE"));
    workspace.write("secrets.env", "A=S3CRET\n", 0o640);
    assert!(refused(workspace.deploy("1", &[])).contains("others may read"));
    assert!(workspace.cloud.state().log.is_empty());

    // Another account's key.
    workspace.write("secrets.env", "A=1\n", 0o600);
    let mut other = workspace.deploy("1", &[]);
    other.env("MESHCTL_PRIVATE_KEY_FILE", workspace.world.key_file(anvil::OTHER_KEY));
    assert!(refused(other).contains("give the contract owner's key"));
    let mut status = workspace.world.command(KEY);
    status.args(["phala", "status", "--api-url", &format!("{}/api/v1", workspace.cloud.url), "--api-key-file"]);
    status.arg(workspace.write("key", API_KEY, 0o600));
    let (code, text, _) = workspace.run(status);
    assert!(code == 1 && text.contains("0 CVMs, 0 members"), "no node is no cluster: {text}");
}

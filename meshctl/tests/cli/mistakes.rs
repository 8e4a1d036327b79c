//! What is refused before any endpoint is asked.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use mesh_core::development::PUBLISHED_KEYS;

use super::{meshctl, outcome, run};

#[test]
fn usage_mistakes_exit_64_and_say_what_to_do() {
    for arguments in [
        &["frobnicate"][..],
        &["revoke"],
        &["revoke", "0"],
        &["revoke", "1", "--token", "2"],
        &["bind", "7", "--instance", "xyz"],
        &["mint", "--relay"],
        &["fund"],
        &["mint", "--instance", "1691ed1b47506cad7d08834668691d88246f5b1f", "--fund", "0"],
        &["fund", "0", "--to", "0x00000000000000000000000000000000000000aa"],
        &["deploy"],
        &["deploy", "--kms-root", "0x00000000000000000000000000000000000000aa", "--network", "10.0.0.0/8"],
        &["wait", "--ready", "--timeout", "18446744073709551615"],
        &["burn", "1", "--receipt-timeout", "18446744073709551615"],
        &["burn", "1", "--from", "0x00000000000000000000000000000000000000aa"],
        &["config", "set"],
        &["config", "dev-mode", "maybe"],
        &["minting", "set", "--price", "cheap"],
        &["compose", "add", "0x12"],
        &["domain", "add", ""],
        &["domain", "add", "GW.example.com"],
        &["domain", "add", "gw.example.com."],
        &["domain", "add", "gw.example.com:443"],
        &["domain", "add", "gw.example.com:0"],
        &["domain", "add", "gw.example.com:65536"],
        &["domain", "add", "user@gw.example.com:8443"],
        &["domain", "add", "[2001:db8::1]:8443"],
        &["leader", "vote", "--sign-for", "1", "--dry-run"],
        &["status", "--check", "alive"],
        &["status", "--watch", "--check", "live"],
        &["wait"],
        &["nodes"],
        &["nodes", "--rpc-url", "ftp://x", "--contract", "0x00000000000000000000000000000000000000aa"],
        &["revoke", "7", "--contract", "0x00000000000000000000000000000000000000aa", "--rpc-url", "http://127.0.0.1:1"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (64, ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
    insta::assert_snapshot!("no_contract", run(&["nodes"]).2);
    let revoke = ["revoke", "7", "--contract", "0x00000000000000000000000000000000000000aa", "--rpc-url", "http://h"];
    insta::assert_snapshot!("no_key", run(&revoke).2);
}

#[test]
fn an_argument_that_is_no_text_is_a_usage_mistake() {
    let outcome = outcome(meshctl().arg(OsStr::from_bytes(b"stat\xff")).output().unwrap());
    assert_eq!(outcome.0, 64, "{outcome:?}");
    assert!(outcome.2.starts_with("error: "), "{outcome:?}");
}

/// Nothing is asked of the endpoint, which does not exist.
#[test]
fn keys_that_everybody_can_use_get_no_rights() {
    const CONTRACT: &str = "0x00000000000000000000000000000000000000aa";
    let commands = |address: &str| {
        [
            &["root", "add", address][..],
            &["deploy", "--kms-root", CONTRACT, "--kms-root", address],
            &["owner", "offer", address],
            &["mint", "--to", address],
            &["transfer", "1", "--to", address],
            &["withdraw", "--to", address],
        ]
        .map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    };
    // Every command with some of the keys, and every key with one of the commands: each is a process.
    for (index, (address, source)) in PUBLISHED_KEYS.into_iter().enumerate() {
        let address = address.to_string();
        let commands = commands(&address);
        let command = commands[index % commands.len()].iter().map(String::as_str);
        let place = ["--contract", CONTRACT, "--rpc-url", "http://127.0.0.1:1", "--dry-run", "--from", CONTRACT];
        let arguments: Vec<_> = command.chain(place).collect();
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(&address) && stderr.contains(source) && stderr.contains("`--development`"), "{stderr}");
    }
    // With `--development` it is accepted, and the endpoint is asked.
    let root = PUBLISHED_KEYS[0].0.to_string();
    let arguments = [
        "root",
        "add",
        &root,
        "--contract",
        CONTRACT,
        "--rpc-url",
        "http://127.0.0.1:1",
        "--dry-run",
        "--from",
        CONTRACT,
    ];
    let (code, _, stderr) = run(&[&arguments[..], &["--development"]].concat());
    assert!(code == 1 && stderr.contains("127.0.0.1:1") && !stderr.contains("published"), "{stderr}");
}

#[test]
fn a_mistake_is_repeated_without_the_key_in_it() {
    let (code, _, errors) = run(&["nodes", "https://user:S3CRET@rpc.example/v3/S3CRET?key=S3CRET\u{1b}[2J"]);
    assert_eq!(code, 64);
    assert!(errors.contains("rpc.example") && !errors.contains("S3CRET") && !errors.contains('\u{1b}'), "{errors:?}");
}

#[test]
fn a_slip_is_named_and_a_failure_is_json_where_json_is_asked_for() {
    let (code, _, errors) = run(&["revok", "7"]);
    assert!(code == 64 && errors.ends_with("\nhint: did you mean `meshctl revoke`?\n"), "{errors}");
    let typo = "0x5aAeb6054F3E94C9b9A09f33669435E7Ef1BeAed";
    let (code, _, errors) = run(&["root", "add", typo]);
    assert!(code == 64 && errors.contains("did you mean 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?"), "{errors}");
    let (_, _, errors) = run(&["nodes", "--contract", "mesh.eth"]);
    assert!(errors.contains("names are not looked up"), "{errors}");

    let failures: [(&[&str], i32, &str, Option<&str>); 3] = [
        (&["nodes", "--json"], 64, "no cluster contract", Some("--contract")),
        (&["status", "--json", "--socket", "/nonexistent"], 3, "/nonexistent", Some("p2p-agent")),
        (&["--json", "revok", "7"], 64, "revok", Some("did you mean `meshctl revoke`?")),
    ];
    for (arguments, code, error, hint) in failures {
        let (exit_code, stdout, stderr) = run(arguments);
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((exit_code, &document["exit_code"]), (code, &code.into()), "{arguments:?}");
        assert_eq!(document["schema"], "meshctl.error/v1");
        assert!(document["error"].as_str().unwrap().contains(error), "{document}");
        assert_eq!(
            document["hint"].as_str().is_some_and(|said| hint.is_some_and(|hint| said.contains(hint))),
            hint.is_some()
        );
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

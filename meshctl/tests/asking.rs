//! Changes that take peers out or cannot be taken back at once: what is shown, on a terminal and without one, and what would change
//! nothing at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/anvil.rs"]
mod anvil;
mod support;
#[path = "support/world.rs"]
mod world;

use std::{io::Write as _, process::Stdio};

use anvil::{KEY, OTHER, OWNER};
use serde_json::json;
use support::outcome;
use world::{KMS, World, signer};

const HASH: &str = "0xc143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a";
const OTHER_HASH: &str = "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const ZERO: &str = "0x0000000000000000000000000000000000000000";

#[test]
fn what_takes_peers_out_is_shown_and_asked_about() {
    let world = World::new();
    let root = signer(KMS).address().to_string();
    world.join(0x21, None);
    world.join(0x22, None);
    let node = format!("token 1 ({})", "21".repeat(20));
    let last = format!("token 2 ({})", "22".repeat(20));
    let shown = format!(
        "effect    no node whose keys are from KMS root {root} is a member\n\
         leaving   2 of 2 peers: {node}, {last}\n\
         way back  `meshctl root add {root}` counts after 1d0h; "
    );
    let remove = ["root", "remove", &root];
    let before = world.height();
    let (code, stdout, errors) = outcome(world.command(KEY).args(remove).output().unwrap());
    assert_eq!((code, stdout.as_str()), (64, ""), "{errors}");
    assert!(errors.contains(&shown) && errors.contains("\nhint: add `--yes` if that is what you want"), "{errors}");
    let (_, tried, _) = world.run(&[&remove[..], &["--dry-run"]].concat());
    assert!(tried.contains(&shown), "{tried}");
    let tried = world.json(&[&remove[..], &["--dry-run"]].concat());
    let consequences = &tried["calls"][0]["consequences"];
    assert_eq!((&consequences["peers"], &consequences["leaving"][1]["token_id"]), (&json!(2), &json!(2)));

    // On a terminal it is asked.
    for (answer, code) in [("n", 1), ("", 1), ("y", 0)] {
        assert_eq!(world.height(), before, "nothing is sent");
        let (asked, text) = on_a_terminal(&world, &remove, answer);
        assert_eq!(asked, code, "{text}");
        assert!(text.contains("go ahead? [y/N]"), "{text}");
    }
    assert_eq!(world.state(2), "bound");

    // Whatever takes a node out, or cannot be taken back.
    let world = World::new();
    world.join(0x21, None);
    world.json(&["domain", "add", "gw.example.com"]);
    world.json(&["compose", "add", HASH]);
    world.json(&["device", "add", HASH]);
    world.json(&["mint", "--to", OWNER, "--instance", &"23".repeat(20)]);
    let waiting = format!("way back  `meshctl bind 2 --instance {}", "23".repeat(20));
    let before = world.height();
    for (arguments, expected) in [
        (&["revoke", "1"][..], "leaving   1 of 1 peers"),
        (&["deactivate", "1"], "`meshctl bind 1 --instance 2121"),
        (&["burn", "1"], "way back  none"),
        (&["transfer", "1", "--to", OTHER], "way back  none of yours"),
        (&["app", "remove", &world.contract], "leaving   1 of 1 peers"),
        (&["domain", "remove", "1"], "effect    no peer is under it"),
        (&["compose", "remove", HASH], "`meshctl compose add 0xc143"),
        (&["device", "remove", HASH], "`meshctl device add 0xc143"),
        (&["owner", "offer", OTHER], "and then mint, revoke and replace the contract's code"),
        (&["bind", "2", "--instance", &"24".repeat(20)], &waiting),
        (&["config", "dev-mode", "on"], "way back  `meshctl config dev-mode off"),
        (&["config", "require-tcb", "on"], "do not boot again: a node on such a machine"),
        (&["config", "set", "--network-type", "tls-gateway"], "way back  `meshctl config set --network-type any"),
        (&["config", "disable-upgrades", "--forever"], "way back  none: a new cluster"),
        (&["device", "allow-any", "on"], "way back  `meshctl device allow-any off"),
    ] {
        let (code, _, errors) = outcome(world.command(KEY).args(arguments).output().unwrap());
        assert!(code == 64 && errors.contains(expected) && errors.contains("\nway back  "), "{arguments:?}: {errors}");
    }
    assert_eq!(world.height(), before, "nothing is sent");
    for switch in [&["config", "dev-mode"][..], &["config", "require-tcb"], &["device", "allow-any"]] {
        world.json(&[switch, &["on"]].concat());
        let (code, _, errors) = outcome(world.command(KEY).args(switch).arg("off").output().unwrap());
        assert!(code == 64 && errors.contains("\nway back  "), "{switch:?}: {errors}");
    }
}

/// Runs under `script`, which gives it a terminal; exit code, and what stood there.
fn on_a_terminal(world: &World, arguments: &[&str], answer: &str) -> (i32, String) {
    let command = world.command(KEY);
    let mut script = std::process::Command::new("script");
    let line = format!("{} {}", command.get_program().to_str().unwrap(), arguments.join(" "));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    let (code, text, _) = outcome(script.wait_with_output().unwrap());
    (code, text)
}

#[test]
fn what_would_change_nothing_is_an_error() {
    let world = World::new();
    world.json(&["compose", "add", HASH]);
    world.json(&["mint", "--to", OWNER, "--instance", world::INSTANCE]);
    let before = world.height();
    for (arguments, expected) in [
        (&["compose", "add", HASH][..], "is allowed already"),
        (&["compose", "remove", OTHER_HASH], "is not on the list"),
        (&["device", "remove", HASH], "is not on the list"),
        (&["device", "allow-any", "off"], "already so"),
        (&["config", "dev-mode", "off"], "dev mode is off already"),
        (&["config", "require-tcb", "off"], "is off already"),
        (&["config", "set", "--max-nodes", "254"], "are so already"),
        (&["minting", "set", "--open-to", "owner"], "is so already"),
        (&["unpause"], "are open already"),
        (&["owner", "offer", OWNER], "is the contract's owner already"),
        (&["owner", "offer", ZERO], "there is no offer to take back"),
        (&["transfer", "1", "--to", OWNER], "token 1 belongs to"),
        (&["owner", "accept"], "the contract is not offered to"),
        (&["withdraw", "--to", OTHER], "the contract has 0 ether"),
        (&["mint", "--to", OTHER, "--instance", world::INSTANCE], "has token 1 already"),
    ] {
        let refused = world.refused(arguments);
        assert!(refused.contains(expected) && refused.contains("\nhint: "), "{arguments:?}: {refused}");
    }
    assert_eq!(world.height(), before, "nothing is sent");
}

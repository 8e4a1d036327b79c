//! Starting an agent where none runs: with a program that writes down what it was given.

use std::{fs, path::PathBuf, sync::Barrier, thread, time::Duration};

use dstack_p2p::{Builder, DstackP2p, Error};

use crate::{
    PATIENCE, Scratch,
    agent::{CONTRACT, FakeAgent, SHOWN_CONTRACT, peer, peers, status},
    node, until,
};

const SECRET: &str = "https://rpc.example/v2/API-KEY";

/// A program instead of `p2p-agent`, which does the same as long as its directory is there.
fn program(scratch: &Scratch, what: &str) -> [String; 2] {
    let (dir, script) = (scratch.path().display().to_string(), scratch.join("p2p-agent"));
    let text = format!(
        r#"dir={dir}
printf '%s\n' "$@" >$dir/arguments
env >$dir/environment
case "$*" in *--config*) cat /dev/stdin >$dir/config ;; esac
echo starting
{what}
trap 'echo in order >$dir/stopped; exit 0' TERM
echo $$ >$dir/pid
while [ -d $dir ]; do sleep 0.05; done
"#
    );
    fs::write(&script, text).unwrap();
    ["/bin/sh".to_owned(), script.display().to_string()]
}

fn launching(scratch: &Scratch, what: &str) -> (PathBuf, Builder) {
    let socket = scratch.join("run/agent.sock");
    let builder = node(&socket, "wireguard").agent(program(scratch, what));
    (socket, builder)
}

#[tokio::test]
async fn one_is_started_used_and_stopped_in_order_and_nothing_secret_is_shown() {
    let scratch = Scratch::new();
    let (socket, builder) = launching(&scratch, "");
    let node = builder.rpc_url(SECRET).agent_flags(["--gateway-domain", "gw.example"]).build().unwrap();
    let agent = FakeAgent::new(&socket);
    agent.say(&status("active"), &peers([peer(2)]));
    let same = node.clone();
    let registering = tokio::spawn(async move { same.register().await });
    until("it runs", || scratch.join("pid").exists()).await;
    agent.start();
    assert_eq!(registering.await.unwrap().unwrap().token_id.get(), 7);
    assert_eq!(node.get_peers().await.unwrap(), ["10.0.1.2"]);

    let read = |name: &str| fs::read_to_string(scratch.join(name)).unwrap();
    let arguments = read("arguments");
    let expected = format!(
        "--contract\n{SHOWN_CONTRACT}\n--socket\n{}\n--mode\nwireguard\n--gateway-domain\ngw.example\n--config\n/dev/stdin\n",
        socket.display()
    );
    assert_eq!(arguments, expected);
    assert_eq!(read("config"), format!("rpc-url = [\"{SECRET}\"]\n"));
    let environment = read("environment");
    assert!(environment.contains("PATH=") && !environment.contains("API-KEY"), "{environment}");
    // The test's own environment has it: cargo sets it.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !environment.contains("CARGO"), "{environment}");
    assert!(!format!("{node:?}").contains("API-KEY"));

    node.close().await;
    assert_eq!(read("stopped"), "in order\n");
}

#[tokio::test]
async fn one_ends_with_the_last_handle() {
    let scratch = Scratch::new();
    let (node, _agent) = started(&scratch, |builder| builder).await;
    let mut lists = node.monitor_peers();
    drop(node);
    assert_eq!(lists.next().await.unwrap().unwrap(), ["10.0.1.2"]);
    assert!(!scratch.join("stopped").exists());
    drop(lists);
    until("it was asked to end", || scratch.join("stopped").exists()).await;
}

#[tokio::test]
async fn one_that_is_to_be_kept_is_not_stopped() {
    let scratch = Scratch::new();
    let (node, _agent) = started(&scratch, Builder::keep_agent).await;
    // Without `keep_agent` it returns when the agent has ended.
    node.close().await;
    assert!(!scratch.join("stopped").exists());
}

/// A node that has started a program, and what answers in its place.
async fn started(scratch: &Scratch, with: impl FnOnce(Builder) -> Builder) -> (DstackP2p, FakeAgent) {
    let (socket, builder) = launching(scratch, "");
    let node = with(builder).build().unwrap();
    node.register_within(Some(Duration::ZERO), |_| {}).await.unwrap_err();
    until("it runs", || scratch.join("pid").exists()).await;
    (node, FakeAgent::running(&socket, &status("active"), &peers([peer(2)])))
}

#[tokio::test]
async fn clones_that_find_none_at_the_same_moment_start_one_together() {
    let scratch = Scratch::new();
    let count = format!("echo $$ >>{}", scratch.join("started").display());
    let (_, builder) = launching(&scratch, &count);
    let node = builder.build().unwrap();
    let ready = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                ready.wait();
                // It never answers.
                runtime.block_on(node.register_within(Some(Duration::ZERO), |_| {})).unwrap_err();
            });
        }
    });
    until("it runs", || scratch.join("pid").exists()).await;
    assert_eq!(fs::read_to_string(scratch.join("started")).unwrap().lines().count(), 1);
    node.close().await;
}

#[tokio::test]
async fn an_agent_that_is_there_is_used_and_left_alone() {
    let scratch = Scratch::new();
    let (socket, builder) = launching(&scratch, "");
    fs::create_dir(scratch.join("run")).unwrap();
    let agent = FakeAgent::running(&socket, &status("active"), &peers([]));
    let node = builder.build().unwrap();
    node.register().await.unwrap();
    node.close().await;
    assert!(!scratch.join("arguments").exists(), "another was started");
    assert!(agent.asked("/v1/status") > 0);
}

#[tokio::test]
async fn one_that_ends_at_once_says_why() {
    for (complaint, is_refused) in [("error: no RPC endpoint is set", false), ("error: perm_net_admin", true)] {
        let scratch = Scratch::new();
        let (_, builder) = launching(&scratch, &format!("echo '{complaint}' >&2; exit 1"));
        let error = builder.build().unwrap().register_within(Some(PATIENCE), |_| {}).await.unwrap_err();
        assert_eq!(matches!(error, Error::NotPermitted(_)), is_refused, "{error:?}");
        assert!(is_refused || matches!(error, Error::NoAgent(_)), "{error:?}");
        let advice = error.advice();
        assert!(advice.message.ends_with(&format!("starting\n{complaint}")), "{error}");
        assert!(advice.hint.contains("agent.sock.log"), "{error}");
        assert_eq!(advice.hint.contains("Builder::rpc_url"), !is_refused, "{error}");
        assert!(fs::read_to_string(scratch.join("environment")).unwrap().contains("P2P_LOG_LIMIT=8\n"));
    }
}

#[tokio::test]
async fn a_later_start_keeps_what_an_earlier_one_said_and_an_error_shows_the_last() {
    let scratch = Scratch::new();
    let count = scratch.join("count");
    let complaint = format!("echo x >>{0}; echo \"try $(wc -l <{0})\" >&2; exit 1", count.display());
    let (socket, builder) = launching(&scratch, &complaint);
    let node = builder.build().unwrap();
    for number in 1..=2 {
        let error = node.register_within(Some(PATIENCE), |_| {}).await.unwrap_err();
        let message = &error.advice().message;
        assert!(message.ends_with(&format!(":\nstarting\ntry {number}")), "{message}");
    }
    let log = fs::read_to_string(format!("{}.log", socket.display())).unwrap();
    assert!(log.contains("try 1") && log.contains("try 2"), "{log}");
}

#[test]
fn rpc_urls_may_not_be_where_every_process_reads_them() {
    for flags in [&["--rpc-url", SECRET][..], &["--rpc-url=https://rpc.example/v2/API-KEY"]] {
        let builder = DstackP2p::builder(CONTRACT, "wireguard").socket("/nowhere").agent_flags(flags.iter().copied());
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::Invalid(_)) && !error.to_string().contains("API-KEY"), "{error}");
    }
    let error = DstackP2p::builder(CONTRACT, "wireguard").socket("/nowhere").rpc_url(format!("{SECRET}\n")).build();
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && !error.to_string().contains("API-KEY"), "{error}");
}

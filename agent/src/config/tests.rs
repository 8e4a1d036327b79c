//! Flags as they are resolved, with defaults and refusals.

use super::*;

fn config_of(arguments: &[&str], homes: &Homes) -> Result<Config, ConfigError> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let (flags, names) = Layers { arguments, variable: &|_| None, file: None }.flags()?;
    Config::resolve(flags, names, homes)
}

/// As root's agent would be started.
fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
    config_of(arguments, &Homes::of(0, |_| None))
}

#[test]
fn the_first_front_is_that_of_the_url() {
    let with = |more: &[&str]| {
        let of_tls = ["--rpc-url", "http://a", "--mode", "tls", "--gateway-domain", "gw.example"];
        config(&[&of_tls[..], more].concat())
    };
    let fronts = ["--front", "8443=127.0.0.1:8080", "--front", "9443=unix:/run/app.sock"];
    let config_of = with(&fronts).unwrap();
    assert_eq!((config_of.place.unwrap().port.get(), config_of.tls.fronts.len()), (8443, 2));
    assert_eq!(config_of.tls.key_file, Path::new("/run/p2p-agent/tls.key.pem"));
    // Something between the gateway and the front may have another port.
    let port = with(&[&fronts[..], &["--tls-port", "443"]].concat()).unwrap().place.unwrap().port;
    assert_eq!(port.get(), 443);
    let error = with(&["--front", "1=127.0.0.1:2", "--front", "1=127.0.0.1:3"]).unwrap_err().to_string();
    assert!(error.contains("port 1 is given twice") && error.contains("hint: "), "{error}");
    let towards = ["--proxy", "127.0.0.1:1080", "--forward", "unix:/run/app/db.sock=node-7:6379"];
    let config_of = with(&[&towards[..], &["--gateway-address", "192.0.2.1:443"]].concat()).unwrap();
    assert_eq!((config_of.applications.proxy.len(), config_of.applications.forward.len()), (1, 1));
    assert_eq!(config_of.gateway.address, Some("192.0.2.1:443".parse().unwrap()));
    let error = config(&["--rpc-url", "http://a", "--front", "1=127.0.0.1:2"]).unwrap_err().to_string();
    assert!(error.contains("--front") && error.contains("--mode wireguard"), "{error}");
}

#[test]
fn a_tls_node_needs_a_domain_and_no_interface() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a", "--mode", "tls"][..], more].concat());
    let error = with(&[]).unwrap_err().to_string();
    assert!(error.contains("--gateway-domain") && error.contains("DSTACK_GATEWAY_DOMAIN"), "{error}");
    let domain = ["--gateway-domain", "gw.example"];
    let config = with(&domain).unwrap();
    let place = config.place.unwrap();
    assert_eq!((config.mode, place.domain.as_str(), place.port.get()), (Mode::Tls, "gw.example", 443));
    assert_eq!(config.state_dir, Path::new("/var/lib/p2p-agent/tls"));
    assert_eq!(config.socket, Path::new("/run/p2p-agent/tls.sock"));
    let port = with(&[&domain[..], &["--tls-port", "8443"]].concat()).unwrap().place.unwrap().port;
    assert_eq!(port.get(), 8443);
    let elsewhere = with(&["--gateway-domain", "gw.example:9443"]).unwrap().place.unwrap();
    assert_eq!(
        (elsewhere.port.get(), elsewhere.domain.port().get()),
        (443, 9443),
        "the node's port, and the gateway's"
    );
    let error = with(&["--gateway-domain", "gw.example:443"]).unwrap_err().to_string();
    assert!(error.contains("`gw.example:443` is no gateway domain") && error.contains("not listen on 443"), "{error}");
    for of_wireguard in [
        ["--interface", "mesh0"],
        ["--listen-port", "51821"],
        ["--endpoint", "none"],
        ["--tunnel", "userspace"],
        ["--guard", "full"],
        ["--mtu", "1400"],
        ["--threads", "2"],
        ["--without-offload", "udp_gso"],
        ["--keepalive", "25"],
        ["--gateway-listen", "0.0.0.0:51822"],
        ["--gateway-redial-after", "1h"],
        ["--stun", "192.0.2.1:3478"],
    ] {
        let error = with(&[&domain[..], &of_wireguard].concat()).unwrap_err().to_string();
        assert!(error.contains(of_wireguard[0]) && error.contains("--mode tls"), "{error}");
    }
    for bad in ["gw", "https://gw.example", "GW.example", "10.0.0.1"] {
        let error = with(&["--gateway-domain", bad]).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("--gateway-domain"), "{error}");
    }
}

#[test]
fn an_ordinary_user_has_its_own_directories() {
    let arguments = ["--rpc-url", "http://a", "--mode", "tls", "--gateway-domain", "gw.example"];
    let as_user = |variables: &'static [(&str, &str)], more: &[&str]| {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        config_of(&[&arguments[..], more].concat(), &Homes::of(1000, variable))
    };
    let paths = |config: Config| (config.state_dir, config.socket);
    let socket = PathBuf::from("/run/user/1000/p2p-agent/tls.sock");
    for (variables, state) in [
        (&[("XDG_STATE_HOME", "/s"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")][..], "/s/p2p-agent"),
        (&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")], "/h/.local/state/p2p-agent"),
        (
            &[("XDG_STATE_HOME", "relative"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
            "/h/.local/state/p2p-agent",
        ),
    ] {
        assert_eq!(paths(as_user(variables, &[]).unwrap()), (state.into(), socket.clone()));
    }
    assert!(matches!(as_user(&[("HOME", "/h")], &[]), Err(ConfigError::NoRuntimeDir)));
    assert!(matches!(as_user(&[("XDG_RUNTIME_DIR", "/r")], &[]), Err(ConfigError::NoStateHome)));
    let given = as_user(&[], &["--state-dir", "/a", "--socket", "/b/c.sock"]).unwrap();
    assert_eq!(paths(given), ("/a".into(), "/b/c.sock".into()));
}

#[test]
fn a_wireguard_node_has_a_place_for_streams_where_it_can_take_them() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap().place;
    assert_eq!(with(&[]), None);
    let place = with(&["--gateway-domain", "gw.example"]).unwrap();
    assert_eq!((place.domain.as_str(), place.port), ("gw.example", DEFAULT_GATEWAY_PORT));
    assert_eq!(with(&["--gateway-domain", "gw.example", "--tunnel", "kernel"]), None);
    let error = config(&["--rpc-url", "http://a", "--tls-port", "1"]).unwrap_err().to_string();
    assert!(error.contains("--tls-port") && error.contains("--mode wireguard"), "{error}");
}

#[test]
fn defaults_follow_the_interface() {
    let config = config(&["--rpc-url", "http://127.0.0.1:8545", "--interface", "mesh7"]).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/p2p-agent/mesh7"));
    assert_eq!(config.socket, Path::new("/run/p2p-agent/mesh7.sock"));
    assert_eq!(config.listen_port, None);
    let instance = InstanceId([0x11; 20]);
    assert_eq!(config.listen_port_of(instance), mesh_core::listen_port::listen_port(instance));
    assert_eq!((config.guard, config.allowed.mesh_network), (GuardKind::Full, None));
    assert_eq!(config.rpc_quorum, 1);
    assert_eq!(config.on_registry_expiry, OnExpiry::FailClosed);
}

/// What an operator opened in a firewall, or has led here, does not move.
#[test]
fn a_port_that_is_named_or_led_to_stays() {
    let port = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap().listen_port;
    assert_eq!(port(&["--listen-port", "4000"]), Some(4000));
    assert_eq!(port(&["--endpoint", "203.0.113.7:4000"]), Some(FORWARDED_LISTEN_PORT));
    assert_eq!(port(&["--endpoint", "203.0.113.7:4000", "--listen-port", "4001"]), Some(4001));
    for endpoint in ["auto", "none"] {
        assert_eq!(port(&["--endpoint", endpoint]), None);
    }
}

#[test]
fn the_quorum_is_the_majority_unless_said() {
    let urls = ["--rpc-url", "http://a", "--rpc-url", "http://b", "--rpc-url", "http://c"];
    assert_eq!(config(&urls).unwrap().rpc_quorum, 2);
    let three = [&urls[..], &["--rpc-quorum", "3"]].concat();
    assert_eq!(config(&three).unwrap().rpc_quorum, 3);
    let trusted = config(&[&urls[..], &["--trusted-rpc-url", "http://own"]].concat()).unwrap();
    assert_eq!((trusted.rpc_urls.len(), trusted.rpc_quorum, trusted.rpc_trusted), (4, 1, true));
    assert_eq!(config(&["--trusted-rpc-url", "http://own"]).unwrap().rpc_urls.len(), 1, "it is enough");
    let both = [&urls[..], &["--trusted-rpc-url", "http://own", "--rpc-quorum", "2"]].concat();
    assert!(config(&both).unwrap_err().to_string().contains("exclude each other"));
    assert!(
        config(&["--trusted-rpc-url", "ftp://own/s3cretkey"])
            .unwrap_err()
            .to_string()
            .starts_with("`--trusted-rpc-url`")
    );
    let four = [&urls[..], &["--rpc-quorum", "4"]].concat();
    assert!(matches!(config(&four), Err(ConfigError::Quorum { need: 4, sources: 3 })));
}

#[test]
fn peers_call_where_the_agent_listens() {
    let with =
        |more: &[&str]| config(&[&["--rpc-url", "http://a", "--gateway-domain", "gw.example"][..], more].concat());
    let place = with(&["--gateway-listen", "192.0.2.1:6000"]).unwrap().place.unwrap();
    assert_eq!(place.port.get(), 6000);
    assert!(matches!(with(&["--gateway-listen", "0.0.0.0:0"]), Err(ConfigError::GatewayPort)));
    for flag in [["--gateway-listen", "0.0.0.0:1"], ["--gateway-redial-after", "1h"], ["--stun", "192.0.2.1:3478"]] {
        let of_kernel = with(&[&["--tunnel", "kernel"][..], &flag].concat()).unwrap_err().to_string();
        assert!(of_kernel.contains(flag[0]) && of_kernel.contains("--tunnel kernel"), "{of_kernel}");
        let of_tls = with(&[&["--mode", "tls"][..], &flag].concat()).unwrap_err().to_string();
        assert!(of_tls.contains(flag[0]) && of_tls.contains("--mode tls"), "{of_tls}");
    }
}

#[test]
fn what_dstack_uses_itself_is_refused() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
    assert!(matches!(with(&["--listen-port", "9182"]), Err(ConfigError::DstackPort)));
    assert!(matches!(with(&["--interface", "dstack-wg0"]), Err(ConfigError::DstackInterface)));
}

#[test]
fn the_device_is_made_as_was_said() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
    let device = with(&["--mtu", "1380", "--threads", "2", "--without-offload", "udp_gro"]).unwrap().device;
    assert_eq!((device.name.as_str(), device.mtu, device.threads.get()), ("mesh0", Some(1380), 2));
    assert!(!device.offloads.udp_gro && device.offloads.udp_gso);
    assert_eq!(with(&["--tunnel", "kernel", "--mtu", "1380"]).unwrap().device.mtu, Some(1380));
    for of_userspace in [["--threads", "1"], ["--without-offload", "udp_gso"]] {
        let error = with(&[&["--tunnel", "kernel"][..], &of_userspace].concat()).unwrap_err().to_string();
        assert!(error.contains(of_userspace[0]) && error.contains("--tunnel kernel"), "{error}");
    }
}

#[test]
fn what_the_contract_alone_may_not_say_is_the_operators() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
    assert_eq!(with(&[]).unwrap().allowed, Allowed::default());
    let domains = ["--allow-gateway-domain", "one.example", "--allow-gateway-domain", "two.example"];
    let given = [&["--mesh-network", "203.0.4.0/24", "--development"][..], &domains].concat();
    let allowed = with(&given).unwrap().allowed;
    assert_eq!(allowed.mesh_network.map(|network| network.network().to_string()).as_deref(), Some("203.0.4.0/24"));
    assert_eq!(
        allowed.gateway_domains.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["one.example", "two.example"]
    );
    assert!(allowed.dev_urls && !with(&["--development=false"]).unwrap().allowed.dev_urls);
    for bad in ["10.0.1.1/24", "10.0.1.0/8", "10.0.1.0", "mesh"] {
        assert!(with(&["--mesh-network", bad]).unwrap_err().to_string().contains("--mesh-network"), "{bad}");
    }
}

#[test]
fn spending_has_a_limit_unless_another_is_given() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
    assert_eq!(with(&[]).unwrap().daily_limit, DailyLimit::default());
    let given = ["--max-transactions-per-day", "3", "--max-spending-per-day", "1.25"];
    assert_eq!(with(&given).unwrap().daily_limit, DailyLimit { transactions: 3, gwei: 1_250_000_000 });
    for bad in ["", ".", "1.", "-1", "1.0000000001", "99999999999999999999", "0x1", "1e3"] {
        assert!(with(&[&format!("--max-spending-per-day={bad}")]).is_err(), "{bad}");
    }
}

#[test]
fn who_may_act_is_said_by_number_or_by_a_groups_name() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat());
    let config = with(&["--allow-vote-uid", "10001", "--allow-vote-uid=10002", "--api-group", "p2p-agent"]).unwrap();
    assert_eq!(config.allow_vote_uid, [UserId(10_001), UserId(10_002)]);
    assert_eq!(config.api_group, Some(Group::Name("p2p-agent".to_owned())));
    let config = with(&[]).unwrap();
    assert_eq!((config.allow_vote_uid, config.api_group), (Vec::new(), None));
    for bad in [["--allow-vote-uid", "65534"], ["--allow-vote-uid", "www-data"], ["--api-group", "a:b"]] {
        let error = with(&bad).unwrap_err().to_string();
        assert!(error.contains(bad[0]) && error.contains(bad[1]), "{error}");
    }
}

#[test]
fn published_roots_are_trusted_for_development_alone() {
    let ones = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a", "--trust-kms-root", ones][..], more].concat());
    for of_production in [&[][..], &["--development=false"]] {
        let error = with(of_production).unwrap_err().to_string();
        assert!(error.contains(ones) && error.contains("published") && error.contains("`--development`"), "{error}");
    }
    for of_development in ["--development", "--development=true"] {
        let config = with(&[of_development]).unwrap();
        assert!(config.development && config.trusted_kms_roots == [ones.parse::<Address>().unwrap()]);
    }
    let other = "0x1111111111111111111111111111111111111111";
    assert!(!config(&["--rpc-url", "http://a", "--trust-kms-root", other]).unwrap().development);
}

#[test]
fn bad_values_name_themselves() {
    let with = |more: &[&str]| config(&[&["--rpc-url", "http://a"][..], more].concat()).unwrap_err().to_string();
    assert!(with(&["--interface", "sixteen-bytes-xx"]).contains("sixteen-bytes-xx"));
    assert!(with(&["--interface", "a/b"]).contains("a/b"));
    assert!(with(&["--listen-port", "0"]).contains("--listen-port"));
    assert!(with(&["--endpoint", "nowhere"]).contains("nowhere"));
    assert!(with(&["--rpc-url", "http://a"]).contains("twice"));
    assert!(with(&["--rpc-url", "ftp://b"]).contains("RPC endpoint 2"));
    assert!(config(&[]).unwrap_err().to_string().contains("--rpc-url"));
}

#[test]
fn a_network_in_this_process_needs_no_rights_and_falls_back_only_where_it_may() {
    let why = || Some("the capability NET_ADMIN is missing".to_owned());
    let user =
        Homes::of(1000, |name| (name == "XDG_STATE_HOME" || name == "XDG_RUNTIME_DIR").then(|| "/home".to_owned()));
    let with = |more: &[&str], without_tun: Option<String>, homes: &Homes| {
        let arguments = ["--rpc-url", "http://a"].iter().chain(more).map(|word| (*word).to_owned()).collect();
        let (mut flags, names) = Layers { arguments, variable: &|_| None, file: None }.flags()?;
        flags.without_tun = without_tun;
        Config::resolve(flags, names, homes)
    };
    let root = Homes::of(0, |_| None);
    let proxy = ["--proxy", "127.0.0.1:1080"];

    let fallen_back = with(&proxy, why(), &root).unwrap();
    assert_eq!((fallen_back.dataplane, fallen_back.without_tun), (Dataplane::Netstack, why()));
    assert!(!fallen_back.device.uapi && fallen_back.state_dir == Path::new("/var/lib/p2p-agent/mesh0"));
    let tun = with(&proxy, None, &root).unwrap();
    assert_eq!((tun.dataplane, tun.without_tun, tun.device.uapi), (Dataplane::Userspace, None, true));
    // Without any use for it, what is missing is an error, as it is said by the device's check.
    assert_eq!(with(&[], why(), &root).unwrap().dataplane, Dataplane::Userspace);
    let chosen = with(&["--tunnel", "netstack"], why(), &user).unwrap();
    assert_eq!((chosen.dataplane, chosen.without_tun), (Dataplane::Netstack, None));
    assert_eq!(chosen.state_dir, Path::new("/home/p2p-agent/mesh0"));
    assert_eq!(chosen.socket, Path::new("/home/p2p-agent/mesh0.sock"));

    let refused = |more: &[&str]| with(more, None, &root).unwrap_err().to_string();
    for flag in [proxy, ["--forward", "127.0.0.1:6379=node-3"], ["--expose", "6379"]] {
        for tunnel in ["userspace", "kernel"] {
            let error = refused(&[&flag[..], &["--tunnel", tunnel]].concat());
            assert!(error.contains(flag[0]) && error.contains("`--tunnel netstack`"), "{error}");
        }
    }
    // A TLS node calls members by them too, and is reached by its fronts.
    let error = refused(&["--expose", "6379", "--mode", "tls", "--gateway-domain", "gw.example"]);
    assert!(error.contains("--expose") && error.contains("--mode tls"), "{error}");
    assert!(refused(&["--tunnel", "netstack", "--guard", "full"]).contains("`--guard`"));
    let error = refused(&["--expose", "80", "--expose", "80=127.0.0.1:8080"]);
    assert!(error.contains("port 80 is given twice"), "{error}");
    let error = refused(&["--proxy", "0.0.0.0:1080"]);
    assert!(error.contains("loopback") || error.contains("127.0.0.1"), "{error}");
}

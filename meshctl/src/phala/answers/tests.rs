//! Answers as the API gives them, and hostile ones.

use serde_json::json;

use super::*;

const APP: AppId = AppId([0xab; 20]);

fn cvm() -> Value {
    json!({
        "id": "cvm_8f2k", "name": "prod-db", "app_id": "ab".repeat(20), "vm_uuid": "0f1e-22", "instance_id": "11".repeat(20),
        "status": "running", "in_progress": false, "compose_hash": "22".repeat(32),
        "gateway": { "base_domain": "dstack-pha-prod7.phala.network", "cname": null }, "node_info": { "id": 7 }, "new": {}
    })
}

fn changed(name: &str, value: Value) -> Result<Vec<Cvm>, String> {
    let mut cvm = cvm();
    cvm[name] = value;
    cvms(json!([cvm]), APP).map_err(|error| error.to_string())
}

#[test]
fn a_cvm_as_the_api_shows_it() {
    let parsed = cvms(json!([cvm()]), APP).unwrap().remove(0);
    assert_eq!(
        (parsed.id.to_string().as_str(), parsed.name.as_str(), parsed.state),
        ("0f1e-22", "prod-db", CvmState::Running)
    );
    assert_eq!((parsed.instance, parsed.compose_hash), (Some(InstanceId([0x11; 20])), Some(B256::repeat_byte(0x22))));
    assert_eq!(parsed.node, Some(NodeId(7)));
    let young = changed("instance_id", Value::Null).unwrap().remove(0);
    assert_eq!(young.instance, None);
    assert_eq!(changed("vm_uuid", Value::Null).unwrap()[0].id.to_string(), "cvm_8f2k");
    assert!(changed("status", json!("deleted")).unwrap().is_empty());
    assert_eq!(changed("status", json!("boot_failed")).unwrap()[0].state, CvmState::Failed);
    assert_eq!(changed("status", json!("starting")).unwrap()[0].state, CvmState::Changing);
}

#[test]
fn what_is_hostile_goes_no_further() {
    for (name, value, said) in [
        ("vm_uuid", json!("../../kms"), "id is none"),
        ("vm_uuid", json!("a/b?c"), "id is none"),
        ("instance_id", json!("11"), "the instance id is not 20 bytes in hex: `11`"),
        ("instance_id", json!("\u{1b}[2J"), "`\\u{1b}[2J`"),
        ("compose_hash", json!("zz"), "the compose hash is not 32 bytes"),
        ("app_id", json!("cd".repeat(20)), "it lists one of app cdcd"),
        ("status", json!(7), "the list of CVMs"),
    ] {
        let error = changed(name, value).unwrap_err();
        assert!(error.contains(said) && !error.contains('\u{1b}'), "{name}: {error}");
    }
    let named = changed("name", json!("a\u{1b}]0;x\u{7}\u{202e}".repeat(100))).unwrap().remove(0);
    assert!(!named.name.chars().any(mesh_core::text::is_hostile) && named.name.len() < 800, "{}", named.name);
    let twins = json!([cvm(), cvm()]);
    assert!(cvms(twins, APP).unwrap_err().to_string().contains("two CVMs with one instance id"));
    let many = Value::Array(vec![cvm(); MAX_ENTRIES + 1]);
    assert!(cvms(many, APP).unwrap_err().to_string().contains("it lists 1001 CVMs"));
    assert!(cvms(json!({}), APP).is_err());
}

#[test]
fn a_provision_without_a_kms_on_a_chain_is_refused() {
    let kms = json!({ "id": "kms_1", "slug": "base-prod5", "chain_id": 8453, "kms_contract_address": "0x2f83172A49584C017F2B256F0FB2Dca14126Ba9C", "url": "x", "version": "y" });
    let answer =
        json!({ "compose_hash": "22".repeat(32), "device_id": "33".repeat(32), "teepod_id": 7, "kms_info": kms });
    let parsed = provisioned(answer.clone()).unwrap();
    assert_eq!((parsed.kms.name.as_str(), parsed.kms.chain_id, parsed.node), ("base-prod5", 8453, Some(NodeId(7))));
    assert_eq!(parsed.device_id, Some(B256::repeat_byte(0x33)));
    for (name, value) in [("kms_info", Value::Null), ("compose_hash", json!("22"))] {
        let mut answer = answer.clone();
        answer[name] = value;
        assert!(provisioned(answer).is_err(), "{name}");
    }
    let mut odd = answer;
    odd["kms_info"]["slug"] = json!("a/../b");
    assert_eq!(provisioned(odd).unwrap().kms.name, "kms_1");
}

#[test]
fn a_port_is_advertised_only_at_a_public_address() {
    let of = |address: &str, public: Option<&str>| {
        let mapping = json!([
            { "id": "pm_1", "host_port": 31000, "vm_port": 51821, "protocol": "udp", "host_address": address, "public_host": public },
            { "id": "pm_2", "host_port": 31001, "vm_port": 443, "protocol": "tcp", "host_address": address },
        ]);
        let [mapping] = mappings(mapping).unwrap()[..] else { panic!("one is of UDP") };
        mapping.endpoint().map(|endpoint| endpoint.to_string())
    };
    assert_eq!(of("66.220.6.107", None).as_deref(), Some("66.220.6.107:31000"));
    assert_eq!(of("0.0.0.0", Some("66.220.6.105")).as_deref(), Some("66.220.6.105:31000"));
    assert_eq!(of("::ffff:66.220.6.107", None).as_deref(), Some("66.220.6.107:31000"), "as IPv4");
    for private in ["0.0.0.0", "10.0.2.2", "203.0.113.7", "::ffff:10.0.2.2", "::", "2001:db8::1", "host.example"] {
        assert_eq!(of(private, None), None, "{private}");
    }
}

//! What the app's deployment document says of the gateway, as `Info` shows it: in `tcb_info`, which is JSON in a string, or by itself
//! (API v1). Nothing of it is believed in: it explains why this node is not reached.

use std::collections::BTreeMap;

use mesh_core::gateway_access::GatewayAccess;
use serde::Deserialize;

/// The part of `tcb_info` that is used.
#[derive(Deserialize)]
struct TcbInfo {
    app_compose: String,
}

#[derive(Deserialize)]
struct AppCompose {
    #[serde(default)]
    gateway_enabled: bool,
    /// Its name before dstack 0.5.
    #[serde(default)]
    tproxy_enabled: bool,
    #[serde(default)]
    port_policy: PortPolicy,
}

#[derive(Default, Deserialize)]
struct PortPolicy {
    #[serde(default)]
    restrict_mode: bool,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    port: u16,
    #[serde(default)]
    pp: bool,
}

/// From `Info`'s two fields, of which one is empty; `None` where neither has a document that can be read.
pub(super) fn gateway_access(tcb_info: &str, app_compose: &str) -> Option<GatewayAccess> {
    let AppCompose { gateway_enabled, tproxy_enabled, port_policy } = if app_compose.is_empty() {
        let tcb_info: TcbInfo = serde_json::from_str(tcb_info).ok()?;
        serde_json::from_str(&tcb_info.app_compose).ok()?
    } else {
        serde_json::from_str(app_compose).ok()?
    };
    let ports: BTreeMap<u16, bool> = port_policy.ports.iter().map(|listed| (listed.port, listed.pp)).collect();
    Some(GatewayAccess { enabled: gateway_enabled || tproxy_enabled, restricted: port_policy.restrict_mode, ports })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_apis_show_the_same_document() {
        let compose = json!({
            "gateway_enabled": true,
            "port_policy": {"restrict_mode": true, "ports": [{"port": 51822}, {"port": 443, "pp": true}]},
        })
        .to_string();
        let expected = GatewayAccess { enabled: true, restricted: true, ports: [(51822, false), (443, true)].into() };
        let nested = json!({"mrtd": "00", "app_compose": compose}).to_string();
        assert_eq!(gateway_access(&nested, ""), Some(expected.clone()));
        assert_eq!(gateway_access("", &compose), Some(expected));
        assert_eq!(gateway_access("", "{}"), Some(GatewayAccess::default()));
        let old = gateway_access("", r#"{"tproxy_enabled": true}"#);
        assert!(old.is_some_and(|access| access.enabled));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for (tcb_info, app_compose) in
            [("", ""), ("{}", ""), (r#"{"app_compose": "["}"#, ""), ("", "7"), ("", r#"{"port_policy": {"ports": 1}}"#)]
        {
            assert_eq!(gateway_access(tcb_info, app_compose), None, "{tcb_info} {app_compose}");
        }
    }
}

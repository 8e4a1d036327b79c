//! dstack's older guest agent API, which the same program serves on a socket of its own (`tappd.sock`, methods below `/prpc/`). It has
//! no `GetKey`, so it is recognised only to be named.

use super::{find::Endpoint, http};

/// What dstack calls that socket.
const NAME: &str = "tappd.sock";

/// Whether what knows none of our methods is that socket: by its name, which a mount may change, or because it answers there.
pub(super) async fn is_there(endpoint: &Endpoint) -> bool {
    is_its_name(endpoint)
        || http::post(endpoint, "prpc/Tappd.Info", "{}").await.is_ok_and(|answer| answer.status == 200)
}

fn is_its_name(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Unix(path) if path.file_name().is_some_and(|name| name == NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sockets_own_name_tells() {
        for (path, expected) in [
            ("/var/run/tappd.sock", true),
            ("/run/dstack/tappd.sock", true),
            ("tappd.sock", true),
            ("/var/run/dstack.sock", false),
            ("/tappd.sock/dstack.sock", false),
            ("/run/tappd.socket", false),
        ] {
            assert_eq!(is_its_name(&Endpoint::Unix(path.into())), expected, "{path}");
        }
        assert!(!is_its_name(&Endpoint::Http { authority: "tappd.sock:80".to_owned(), prefix: String::new() }));
    }
}

//! `GET /v1/tls/config`: what an application needs that does TLS with other members itself: who they are, by which key, and its own key.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use axum::response::sse::Event;
use futures_util::{Stream, stream};
use mesh_core::{agent::Adjustments, id::TokenId};
use mesh_front::{Members, Place, SpkiSha256, Trust};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The value of [`TlsConfig::schema`].
const SCHEMA: &str = "p2p-agent.tls/v1";
/// Followers hear at least this often, and so learn that the agent still is there.
const REPEAT: Duration = Duration::from_secs(5);
/// Where a URL names no port.
const HTTPS: u16 = 443;

/// The answer. Accept exactly the key of the member that was dialed; nothing else in its certificate means anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsConfig {
    /// Always `p2p-agent.tls/v1`.
    pub schema: String,
    /// This node.
    #[serde(rename = "self")]
    pub own: OwnTls,
    /// For how many milliseconds from now the list may be trusted, if nothing more is heard; 0: it has expired, and is empty. `None`: the
    /// operator lets an old view stand.
    pub valid_for_ms: Option<u64>,
    /// The others that may talk now, ascending by token. None while this node is no member itself.
    pub members: Vec<TlsMember>,
}

/// This node's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTls {
    /// Its token, while it is a member.
    pub token_id: Option<TokenId>,
    /// Its name.
    pub name: Option<String>,
    /// Where others reach its front.
    pub url: Option<String>,
    /// Its key, as registered.
    pub spki_sha256: SpkiSha256,
    /// PEM; self-signed.
    pub certificate: String,
    /// Where the private key is (PKCS #8, PEM), for the agent's user and its `--api-group`; `None` where it could not be written.
    pub private_key_file: Option<PathBuf>,
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsMember {
    /// Its token.
    pub token_id: TokenId,
    /// Its name.
    pub name: String,
    /// The SHA-256 of its key (SubjectPublicKeyInfo, DER), in hex.
    pub spki_sha256: SpkiSha256,
    /// Where its front is; `None` for one that calls others and has none.
    pub url: Option<String>,
    /// The host in it, which is also the server name to send in TLS.
    pub host: Option<String>,
    /// The TCP port to connect to there.
    pub port: Option<u16>,
}

/// What answers are made of, as it is at each moment.
#[derive(Debug, Clone)]
pub struct TlsSource {
    /// Who may talk.
    pub members: watch::Receiver<Arc<Members>>,
    /// The operator's names.
    pub adjustments: watch::Receiver<Adjustments>,
    /// This node's key.
    pub key: SpkiSha256,
    /// Its certificate in PEM.
    pub certificate: String,
    /// The file of its private key.
    pub private_key_file: Option<PathBuf>,
}

impl TlsSource {
    /// The answer now.
    #[must_use]
    pub fn now(&self) -> TlsConfig {
        let now = Instant::now();
        let members = self.members.borrow();
        self.answer(&members, &self.adjustments.borrow().names, now)
    }

    fn answer(&self, members: &Members, names: &BTreeMap<TokenId, String>, now: Instant) -> TlsConfig {
        let name = |token| names.get(&token).cloned().unwrap_or_else(|| format!("node-{token}"));
        let own = members.own();
        let valid_for_ms = match members.trust() {
            Trust::Always => None,
            Trust::Until(end) => Some(end.saturating_duration_since(now).as_millis().try_into().unwrap_or(u64::MAX)),
        };
        let others = members.iter().filter(|(token, _)| Some(*token) != own && members.of_token(*token, now).is_ok());
        let own_place =
            members.iter().find(|(token, _)| Some(*token) == own).and_then(|(_, member)| member.place.as_ref());
        TlsConfig {
            schema: SCHEMA.to_owned(),
            own: OwnTls {
                token_id: own,
                name: own.map(name),
                url: own_place.and_then(url),
                spki_sha256: self.key,
                certificate: self.certificate.clone(),
                private_key_file: self.private_key_file.clone(),
            },
            valid_for_ms,
            members: others
                .map(|(token_id, member)| {
                    let place = member.place.as_ref();
                    let of_front = place.and_then(|place| Some((place.host(place.port?), place.domain.port().get())));
                    let (host, port) = of_front.unzip();
                    let url = place.and_then(url);
                    TlsMember { token_id, name: name(token_id), spki_sha256: member.key, url, host, port }
                })
                .collect(),
        }
    }

    /// The answer now, again at every change, and every 5 s. It ends with the agent.
    pub(super) fn follow(self) -> impl Stream<Item = Event> {
        stream::unfold((self, None), |(mut source, mut sent)| async move {
            loop {
                let config = source.now();
                let (tag, now) = (config.tag(), Instant::now());
                let due = match &sent {
                    Some((before, at)) if *before == tag => *at + REPEAT,
                    _ => now,
                };
                if now >= due {
                    sent = Some((tag, now));
                    let event = Event::default().event("tls").json_data(&config).ok()?;
                    return Some((event, (source, sent)));
                }
                let expires =
                    config.valid_for_ms.filter(|left| *left > 0).map(|left| now + Duration::from_millis(left));
                tokio::select! {
                    changed = source.members.changed() => changed.ok()?,
                    Ok(()) = source.adjustments.changed() => {}
                    () = sleep_until(expires.map_or(due, |expires| due.min(expires))) => {}
                }
            }
        })
    }
}

impl TlsConfig {
    /// Changes with everything but the time that is left.
    #[must_use]
    pub fn tag(&self) -> String {
        let lasting = Self { valid_for_ms: None, ..self.clone() };
        // The types have no maps with other keys than strings, and nothing else fails.
        let text = serde_json::to_vec(&lasting).unwrap_or_default();
        format!("\"{}\"", hex::encode(&Sha256::digest(text)[..16]))
    }
}

/// `https://<instance>-<port>s.<domain>`, with the gateway's port where it is not 443.
fn url(place: &Place) -> Option<String> {
    let host = place.host(place.port?);
    Some(match place.domain.port().get() {
        HTTPS => format!("https://{host}"),
        port => format!("https://{host}:{port}"),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use mesh_core::{agent::OnExpiry, freshness::Deadlines, id::InstanceId};
    use mesh_front::Member;

    use super::*;

    fn token(id: u32) -> TokenId {
        TokenId::new(id).unwrap()
    }

    fn member(key: u8, domain: Option<&str>, port: u16) -> Member {
        let place = domain.map(|domain| Place {
            instance: InstanceId([key; 20]),
            port: std::num::NonZeroU16::new(port),
            domain: domain.parse().unwrap(),
        });
        Member { key: SpkiSha256([key; 32]), place }
    }

    pub(in crate::api) fn source(members: Members) -> (watch::Sender<Arc<Members>>, TlsSource) {
        let sender = watch::Sender::new(Arc::new(members));
        let adjustments = Adjustments {
            names: BTreeMap::from([(token(3), "db".to_owned())]),
            keepalive: 25,
            deadlines: Deadlines { registry: Duration::from_secs(60), halt: Duration::from_secs(60) },
            on_expiry: OnExpiry::FailClosed,
        };
        let source = TlsSource {
            members: sender.subscribe(),
            // Its last value stays when the sender is gone.
            adjustments: watch::channel(adjustments).1,
            key: SpkiSha256([1; 32]),
            certificate: "PEM".to_owned(),
            private_key_file: Some("/run/p2p-agent/tls.key.pem".into()),
        };
        (sender, source)
    }

    pub(in crate::api) fn three(trust: Trust) -> Members {
        let all = [
            (token(1), member(1, Some("gw.example"), 8443)),
            (token(3), member(3, Some("gw.example:9443"), 443)),
            (token(4), member(4, Some("gw.example"), 0)),
            (token(5), member(5, None, 0)),
        ];
        Members::new(Some(token(1)), all, trust)
    }

    #[tokio::test(start_paused = true)]
    async fn the_shape_is_fixed() {
        let (_sender, source) = source(three(Trust::Until(Instant::now() + Duration::from_secs(7))));
        let (own, db) = ("01".repeat(20), "03".repeat(20));
        let expected = serde_json::json!({
            "schema": "p2p-agent.tls/v1",
            "self": {
                "token_id": 1, "name": "node-1", "url": format!("https://{own}-8443s.gw.example"),
                "spki_sha256": "01".repeat(32), "certificate": "PEM",
                "private_key_file": "/run/p2p-agent/tls.key.pem",
            },
            "valid_for_ms": 7000,
            "members": [
                {
                    "token_id": 3, "name": "db", "spki_sha256": "03".repeat(32),
                    "url": format!("https://{db}-443s.gw.example:9443"), "host": format!("{db}-443s.gw.example"), "port": 9443,
                },
                {
                    "token_id": 4, "name": "node-4", "spki_sha256": "04".repeat(32), "url": null, "host": null, "port": null,
                },
                {
                    "token_id": 5, "name": "node-5", "spki_sha256": "05".repeat(32), "url": null, "host": null, "port": null,
                },
            ],
        });
        assert_eq!(serde_json::to_value(source.now()).unwrap(), expected);
        assert!(!expected.to_string().contains("PRIVATE KEY"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_lists_no_members_and_says_so() {
        let (sender, source) = source(three(Trust::Until(Instant::now() + Duration::from_secs(7))));
        let before = source.now();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(source.now().tag(), before.tag(), "the time that is left is no change");
        tokio::time::advance(Duration::from_secs(4)).await;
        let after = source.now();
        assert_eq!((after.valid_for_ms, after.members.len()), (Some(0), 0));
        assert_ne!(after.tag(), before.tag());
        sender.send_replace(Arc::new(three(Trust::Always)));
        assert_eq!((source.now().valid_for_ms, source.now().tag()), (None, before.tag()));
    }

    #[tokio::test(start_paused = true)]
    async fn followers_hear_of_changes_at_once_of_the_end_in_time_and_else_every_five_seconds() {
        use futures_util::StreamExt as _;
        let start = Instant::now();
        let until = |seconds| Trust::Until(start + Duration::from_secs(seconds));
        let (sender, source) = source(three(until(12)));
        let mut events = std::pin::pin!(source.follow());
        let mut heard = Vec::new();
        for _ in 0..3 {
            drop(events.next().await.unwrap());
            heard.push(start.elapsed().as_secs());
        }
        // A renewal is no change; the end that it moves is.
        sender.send_replace(Arc::new(three(until(13))));
        drop(events.next().await.unwrap());
        heard.push(start.elapsed().as_secs());
        assert_eq!(heard, [0, 5, 10, 13]);
        sender.send_replace(Arc::new(three(until(100))));
        drop(events.next().await.unwrap());
        assert_eq!(start.elapsed().as_secs(), 13);
        drop(sender);
        assert!(events.next().await.is_none(), "the agent is gone");
    }
}

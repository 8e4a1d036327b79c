//! Which cluster, and as what: an application's two settings, and what they make of the agent's status.

use std::{path::Path, str::FromStr, time::Duration};

use mesh_core::{
    id::Address,
    status::{MembershipState, NodeKind, Severity, Status, Warning},
};

use crate::{
    error::{Advice, Error},
    peers::{Member, Peers},
    progress::{Progress, Stage},
};

/// What the contract takes as a development URL, bytes.
const LONGEST_URL: usize = 256;

/// How connection strings look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Addresses in the mesh.
    Wireguard,
    /// https URLs behind the dstack gateway.
    Tls,
    /// The best way to each, from an agent of either kind.
    Auto,
    /// Endpoints as the contract lists them; this is the node's own.
    Url(String),
}

impl Mode {
    /// The agent's name for it; none where an agent of either mode will do.
    pub(crate) const fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Wireguard => Some("wireguard"),
            Self::Tls => Some("tls"),
            Self::Auto | Self::Url(_) => None,
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_url =
            text.contains(':') && text.len() <= LONGEST_URL && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text {
            "wireguard" => Ok(Self::Wireguard),
            "tls" => Ok(Self::Tls),
            "auto" => Ok(Self::Auto),
            url if is_url => Ok(Self::Url(url.to_owned())),
            other => Err(Error::Invalid(Advice::new(
                format!("{other:?} is neither a mode nor a URL"),
                format!(
                    "give `wireguard`, `tls`, `auto`, or where this node is reached, such as http://localhost:8080 (at most {LONGEST_URL} visible ASCII characters)"
                ),
            ))),
        }
    }
}

/// A cluster, and what this node is in it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) contract: Address,
    pub(crate) mode: Mode,
}

/// How far a node is.
pub(crate) enum Standing {
    /// A member whose mesh can be used.
    Ready(Member),
    OnItsWay(Progress),
}

impl Target {
    /// [`Error::Invalid`] for what cannot be a contract, a mode or a URL.
    pub(crate) fn of(contract: &str, mode: &str) -> Result<Self, Error> {
        let contract = contract.parse().map_err(|_| {
            let message = format!("{contract:?} is not a contract's address");
            Error::Invalid(Advice::new(message, "give 0x and 40 hexadecimal digits"))
        })?;
        Ok(Self { contract, mode: mode.parse()? })
    }

    /// The connection string of a member, for applications of this mode.
    pub(crate) fn endpoint(&self, member: &Member) -> Option<String> {
        match self.mode {
            Mode::Wireguard => member.address.map(|address| address.to_string()),
            Mode::Tls => member.url.clone(),
            Mode::Auto => member.connect_to.clone(),
            Mode::Url(_) => member.endpoint(),
        }
    }

    /// [`Error::WrongContract`] or [`Error::WrongAgent`] when this agent serves another cluster, or has another mode.
    pub(crate) fn check(&self, status: &Status) -> Result<(), Error> {
        let contract = self.contract;
        if status.registry.contract != contract {
            return Err(Error::WrongContract(Advice::new(
                format!("the agent serves the cluster {}, not {contract}", status.registry.contract),
                format!("give that address, or start the agent with `--contract {contract}`"),
            )));
        }
        let found = match status.own.kind {
            NodeKind::Wireguard => "wireguard",
            NodeKind::Tls => "tls",
        };
        match self.mode.flag() {
            Some(wanted) if wanted != found => Err(Error::WrongAgent(Advice::new(
                format!("the agent runs in mode `{found}`, not `{wanted}`"),
                format!("start one with `--mode {wanted}`, or name the socket of the one that is meant"),
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// How far this node is.
    ///
    /// As [`Self::check`], and [`Error::NotAMember`] for a node that lost its membership and does not come back by itself.
    pub(crate) fn judge(&self, status: &Status, peers: &Peers) -> Result<Standing, Error> {
        self.check(status)?;
        let (command, cause) = (status.own.membership_hint.as_deref(), cause(status));
        let (stage, words) = match status.own.membership {
            MembershipState::Fenced => {
                let message = cause.map_or("this node lost its membership", |cause| &cause.message);
                return Err(Error::NotAMember(Advice::by_operator(message, command)));
            }
            MembershipState::Unknown => (Stage::Reading, "the contract is being read"),
            MembershipState::NoToken => (Stage::NoToken, "no token is bound to this node"),
            MembershipState::Ambiguous => (Stage::Ambiguous, "several tokens are bound to this node"),
            MembershipState::Revoked => (Stage::Revoked, "the contract's owner bars the token"),
            MembershipState::Registering => (Stage::Registering, "the registration waits for its transaction"),
            MembershipState::Active => (Stage::Converging, "the peers are being configured"),
        };
        let progress = if !status.verdict.ready {
            let words = cause.map_or(words, |cause| &cause.message);
            let hint = cause.and_then(|cause| cause.hint.clone());
            Progress { hint, ..Progress::new(stage, format!("{stage}: {words}"), command) }
        } else if let Some(own) = &peers.own {
            match self.missing_url(status, peers, own)? {
                None => return Ok(Standing::Ready(own.clone())),
                Some(progress) => progress,
            }
        } else {
            Progress::new(Stage::Reading, "the agent does not list this node yet", None)
        };
        Ok(Standing::OnItsWay(progress))
    }

    /// What is missing when the contract has another URL of a member than its application.
    fn missing_url(&self, status: &Status, peers: &Peers, own: &Member) -> Result<Option<Progress>, Error> {
        match &self.mode {
            Mode::Tls | Mode::Auto if own.url.is_none() && (self.mode == Mode::Tls || own.kind == NodeKind::Tls) => {
                // The agent knows why: its gateway domain is not listed in the contract, most of the time.
                let finding = status.warnings.iter().find(|warning| warning.code == "W109");
                let message = finding.map_or("the contract has no URL of this node", |finding| &finding.message);
                let command = finding.and_then(|finding| finding.hint.as_deref());
                Ok(Some(Progress::new(Stage::NoUrl, message, command)))
            }
            Mode::Url(url) if own.endpoint().as_ref() != Some(url) => {
                let found = own.endpoint().unwrap_or_else(|| "nothing".to_owned());
                if !peers.reports_dev_urls {
                    return Err(Error::WrongAgent(Advice::new(
                        format!(
                            "the agent says that this node is at {found}, not at {url}, and knows nothing of development URLs"
                        ),
                        "use an agent that does, or give a mode instead of the URL",
                    )));
                }
                let message = format!(
                    "the contract has {found} of this node, not {url}, which its token's owner gives it in devMode"
                );
                // The token's owner does it, from any wallet: it does not need the node's keys.
                let command =
                    format!("meshctl dev-url set {} {} --contract {}", own.token_id, quoted(url), self.contract);
                Ok(Some(Progress::new(Stage::NoUrl, message, Some(&command))))
            }
            Mode::Wireguard | Mode::Tls | Mode::Auto | Mode::Url(_) => Ok(None),
        }
    }

    /// The error for a node that got no further. Without `limit` only the wait for an agent ends.
    pub(crate) fn not_in_time(&self, progress: Progress, limit: Option<Duration>, socket: &Path) -> Error {
        let Progress { stage, message, command, hint } = progress;
        let by_operator = || Advice::by_operator(message.clone(), command.as_deref());
        match stage {
            Stage::NoAgent => Error::NoAgent(Advice::new(
                message,
                format!("start `p2p-agent` and look at its log, or name its socket (now {})", socket.display()),
            )),
            Stage::Revoked => Error::NotPermitted(by_operator()),
            Stage::NoToken | Stage::Ambiguous | Stage::Registering | Stage::NoUrl => Error::NotAMember(by_operator()),
            Stage::Starting | Stage::Reading | Stage::Converging => {
                let seconds = limit.unwrap_or_default().as_secs_f64();
                let otherwise = || "`meshctl status` says more; a longer limit waits longer".to_owned();
                Error::TimedOut(Advice::new(
                    format!("not ready after {seconds} s: {message}"),
                    hint.unwrap_or_else(otherwise),
                ))
            }
        }
    }
}

/// What keeps this node from being a member whose mesh can be used; `None` where nothing is wrong. Of several warnings it is one that
/// does so, whatever stands beside it: a relayer that is awaited hinders no member, a route that cannot be set does.
pub(crate) fn cause(status: &Status) -> Option<&Warning> {
    let hindering: &[&str] = match status.own.membership {
        // The contract cannot be read.
        MembershipState::Unknown => &["W3"],
        // Nor can it, or this machine refuses something.
        MembershipState::Active => &["W108", "W301", "W501", "W502", "W503", "W505"],
        MembershipState::NoToken
        | MembershipState::Ambiguous
        | MembershipState::Revoked
        | MembershipState::Registering
        | MembershipState::Fenced => &["W10"],
    };
    let is_serious = |warning: &&Warning| warning.severity != Severity::Info;
    let hinders = |warning: &&Warning| hindering.iter().any(|code| warning.code.starts_with(code));
    let mut serious = status.warnings.iter().filter(is_serious);
    serious.clone().find(hinders).or_else(|| serious.next())
}

/// Quoted as one word of a shell.
fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(&byte)) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r#"'"'"'"#))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let contract = "0x7ae1000000000000000000000000000000009c04";
        for (contract, mode) in [
            ("0x12", "tls"),
            ("7ae1", "tls"),
            ("", "tls"),
            (contract, ""),
            (contract, "udp"),
            (contract, "http://a b"),
            (contract, &format!("http://{}", "a".repeat(256))),
        ] {
            let error = Target::of(contract, mode).unwrap_err();
            assert!(matches!(&error, Error::Invalid(advice) if advice.hint.starts_with("give ")), "{error}");
        }
        for url in ["http://localhost:8080", "tcp://10.1.2.3:6379", "localhost:80"] {
            assert_eq!(Target::of(contract, url).unwrap().mode, Mode::Url(url.to_owned()));
        }
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(quoted("http://localhost:8080/a"), "http://localhost:8080/a");
        assert_eq!(quoted("http://h/a'b;c"), r#"'http://h/a'"'"'b;c'"#);
    }
}

//! How the proxy and the forwards of a node without a tunnel reach members: by their token, over TLS.

use std::num::NonZeroU16;

use mesh_front::{DialError as FrontError, Dialer};
use mesh_proxy::{Dial, DialError, Node, Stream, Target};

/// What applications mean by a URL without a port: the one front that the member's own URL names.
const OF_URL: [u16; 2] = [80, 443];

/// Dials members by token.
pub(super) struct MemberDial {
    dialer: Dialer,
}

impl MemberDial {
    pub(super) const fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }
}

impl Dial for MemberDial {
    async fn dial(&self, target: &Target) -> Result<Stream, DialError> {
        let Node::Token(token) = target.node else {
            let why = "members without a tunnel have no mesh addresses: name it `node-7`, by its token".to_owned();
            return Err(DialError::NotPermitted { target: *target, why });
        };
        match self.dialer.dial(token, port_of(*target)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(failed(*target, &error)),
        }
    }
}

/// The port of the member's front; `None` for that of its URL.
fn port_of(target: Target) -> Option<NonZeroU16> {
    Some(target.port).filter(|port| !OF_URL.contains(&port.get()))
}

fn failed(target: Target, error: &FrontError) -> DialError {
    let why = error.to_string().replace("\nhint: ", "; ");
    match error {
        FrontError::NotAllowed(_, mesh_front::CutOff::NoMember | mesh_front::CutOff::OtherKey) => {
            DialError::NotMember(target)
        }
        FrontError::NotAllowed(..) | FrontError::NoPlace(_) => DialError::NotPermitted { target, why },
        FrontError::Unresolved(..)
        | FrontError::Unreachable(..)
        | FrontError::TimedOut(..)
        | FrontError::WrongKey(..)
        | FrontError::Refused(..) => DialError::Unreachable { target, why },
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::id::TokenId;
    use mesh_front::CutOff;

    use super::*;

    #[test]
    fn without_a_port_of_its_own_a_target_is_the_front_of_the_url() {
        for (text, port) in [("node-7:80", None), ("node-7:443", None), ("node-7:6379", NonZeroU16::new(6379))] {
            assert_eq!(port_of(text.parse().unwrap()), port, "{text}");
        }
    }

    #[test]
    fn what_went_wrong_is_said_in_the_words_of_the_proxy() {
        let target: Target = "node-7:80".parse().unwrap();
        let token = TokenId::new(7).unwrap();
        let of = |error| failed(target, &error);
        assert_eq!(of(FrontError::NotAllowed(token, CutOff::NoMember)), DialError::NotMember(target));
        assert!(matches!(of(FrontError::NotAllowed(token, CutOff::Expired)), DialError::NotPermitted { .. }));
        assert!(matches!(of(FrontError::NoPlace(token)), DialError::NotPermitted { .. }));
        let text = of(FrontError::WrongKey("x-443s.gw.example".to_owned(), token)).to_string();
        assert!(text.contains("x-443s.gw.example") && !text.contains('\n'), "{text}");
    }
}

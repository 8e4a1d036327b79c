//! Why an endpoint could not be asked, or what it refused.

use std::time::Duration;

use alloy_primitives::Bytes;

use crate::EndpointMessage;

/// Why there is no good answer. Never holds an API key, and is safe to print whatever the endpoint said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No answer in time.
    #[error("{method}: {}", self.reason())]
    Timeout {
        /// JSON-RPC method.
        method: &'static str,
        /// The time it had.
        patience: Duration,
    },
    /// It was asked too often, and is not asked before it wants to be.
    #[error("{method}: {}", self.reason())]
    Busy {
        /// JSON-RPC method.
        method: &'static str,
        /// How much longer.
        left: Duration,
        /// What it said.
        message: EndpointMessage,
    },
    /// No connection, or not JSON-RPC.
    #[error("{method}: {}", self.reason())]
    Transport {
        /// JSON-RPC method.
        method: &'static str,
        /// What the transport said.
        reason: EndpointMessage,
    },
    /// The endpoint answered with an error.
    #[error("{method}: refused: {}", self.reason())]
    Refused {
        /// JSON-RPC method.
        method: &'static str,
        /// Its words.
        message: EndpointMessage,
        /// Revert data, when the contract refused.
        revert: Option<Bytes>,
    },
    /// The answer is none that an honest endpoint gives.
    #[error("{method}: {}", self.reason())]
    InvalidResponse {
        /// JSON-RPC method.
        method: &'static str,
        /// What is wrong with it.
        reason: EndpointMessage,
    },
}

impl RpcError {
    /// An answer of `method` that no honest endpoint gives.
    #[must_use]
    pub fn invalid_response(method: &'static str, reason: &str) -> Self {
        Self::InvalidResponse { method, reason: EndpointMessage::about(reason) }
    }

    /// The endpoint is of chain `found`, and the operator named `wanted`.
    pub(crate) fn wrong_chain(found: u64, wanted: u64) -> Self {
        Self::invalid_response("eth_chainId", &format!("it is of chain {found}, not of chain {wanted}"))
    }

    /// What went wrong, without the method.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Timeout { patience, .. } => format!("no answer within {} s", patience.as_secs()),
            Self::Busy { left, message, .. } => {
                format!("it was asked too often ({message}), and is left alone for {} s", left.as_secs_f64().ceil())
            }
            Self::Transport { reason, .. } | Self::InvalidResponse { reason, .. } => reason.to_string(),
            Self::Refused { message, .. } => message.to_string(),
        }
    }

    /// Whether the endpoint answered with an error: it is alive, and has taken nothing.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

//! Which guest agent is simulated: that of dstack 0.5, or that of dstack 0.6 with its second API beside the first.

use std::str::FromStr;

/// The dstack whose guest agent is served.
///
/// The default is 0.5: it is what production runs and what every published SDK speaks. A program that works against it works
/// against 0.6 as well, EmitEvent apart, but not the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestApi {
    /// As of 0.5.11: one API, without a version in its paths.
    #[default]
    Dstack05,
    /// That API, frozen and called v0 as well, and beside it v1.
    Dstack06,
}

/// A version of dstack that has no guest agent here.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no dstack whose guest API is simulated; use 0.5 or 0.6")]
pub struct UnknownGuestApi(String);

impl FromStr for GuestApi {
    type Err = UnknownGuestApi;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "0.5" => Ok(Self::Dstack05),
            "0.6" => Ok(Self::Dstack06),
            other => Err(UnknownGuestApi(other.to_owned())),
        }
    }
}

impl GuestApi {
    /// What Version says: whose calls these are, and what they are.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Dstack05 => "0.5.11-SIMULATED",
            Self::Dstack06 => "0.6.0-SIMULATED",
        }
    }
}

//! The kinds of path as the device knows them: the one place where its words and those of status meet.

use mesh_core::path::PathKind;
use mesh_tunnel::{Path, Route};

/// How the device sends by a path of this kind.
#[must_use]
pub const fn device_path(kind: PathKind) -> Path {
    match kind {
        PathKind::Direct => Path::Udp,
        PathKind::Gateway => Path::Stream,
    }
}

/// The kind of a path of the device's.
#[must_use]
pub const fn kind_of(path: Path) -> PathKind {
    match path {
        Path::Udp => PathKind::Direct,
        Path::Stream => PathKind::Gateway,
    }
}

/// The route that takes these kinds of path.
pub(super) fn route(takes: impl Fn(PathKind) -> bool) -> Route {
    Route { udp: takes(PathKind::Direct), stream: takes(PathKind::Gateway) }
}

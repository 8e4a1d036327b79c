//! The paths to a peer as rows of a table: how each is, why it is not usable, and when it is tried again.

use mesh_core::status::{PathStatus, PeerStatus, Reason};

use super::{
    Cell, Color, Column,
    units::{age, or_unknown, percent, round_trip, seen},
};

/// The columns of [`path_rows`]. The path in use bears an asterisk.
pub(crate) const PATH_COLUMNS: [Column; 7] = [
    Column::left("PATH"),
    Column::right("RTT"),
    Column::right("LOSS"),
    Column::right("MTU"),
    Column::right("ANSWERED"),
    Column::right("NEXT TRY"),
    Column::left("REASON"),
];

/// A row for each path to the peer, best first; one of unknowns where none is known.
pub(crate) fn path_rows(peer: Option<&PeerStatus>) -> Vec<Vec<Cell>> {
    let rows = peer.into_iter().flat_map(|peer| peer.paths.iter().map(|path| row(path, peer)));
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { vec![PATH_COLUMNS.iter().map(|_| Cell::new("-")).collect()] } else { rows }
}

fn row(path: &PathStatus, peer: &PeerStatus) -> Vec<Cell> {
    let used = if peer.path == Some(path.kind) { "*" } else { "" };
    let color = if path.usable { Color::Good } else { Color::Caution };
    vec![
        Cell::colored(format!("{}{used}", path.kind.name()), Some(color)),
        Cell::new(or_unknown(path.rtt_ms, round_trip)),
        Cell::new(or_unknown(path.loss_pct, percent)),
        Cell::new(or_unknown(path.mtu, |mtu| mtu.to_string())),
        Cell::new(or_unknown(path.last_ok_s, seen)),
        Cell::new(or_unknown(path.next_probe_s, age)),
        Cell::new(or_unknown(path.reason, |reason: Reason| reason.code().to_owned())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{render::table, samples};

    #[test]
    fn every_path_of_every_peer() {
        let status = samples::degraded();
        let rows: Vec<_> = status.peers.iter().flat_map(|peer| path_rows(Some(peer))).collect();
        insta::assert_snapshot!(table(&PATH_COLUMNS, &rows, false));
    }

    #[test]
    fn a_peer_of_whose_paths_nothing_is_known() {
        let status = samples::degraded();
        let mut peer = status.peers[0].clone();
        peer.paths.clear();
        for peer in [None, Some(&peer)] {
            assert_eq!(path_rows(peer).len(), 1);
        }
    }
}

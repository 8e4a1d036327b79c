"""The other nodes of your dstack mesh, in three lines.

    sdk = DStackP2PSDK("0x…", "wireguard")      # or "tls", "auto", or this node's own URL
    await sdk.register()
    peers = await sdk.get_peers()               # ["10.0.1.1", "10.0.1.2", …] or ["https://…", …]

The work is done by `p2p-agent`, which runs beside the application: it proves membership, follows the contract and carries the packets.
This package asks it over its unix socket, and starts it where none runs. `DStackP2PSDK` is for asyncio, `SyncDStackP2PSDK` for
everything else. Progress is logged as `dstack_p2p`.
"""

from ._errors import (
    NoAgent,
    NotAMember,
    NotPermitted,
    P2PError,
    TimedOut,
    WrongAgent,
    WrongContract,
)
from ._progress import Progress, Stage
from ._sdk import DStackP2PSDK
from ._sync import Monitor, SyncDStackP2PSDK
from ._tls import TlsMembers
from ._tls_view import TlsMember
from ._view import Member

__all__ = [
    "DStackP2PSDK",
    "Member",
    "Monitor",
    "NoAgent",
    "NotAMember",
    "NotPermitted",
    "P2PError",
    "Progress",
    "Stage",
    "SyncDStackP2PSDK",
    "TimedOut",
    "TlsMember",
    "TlsMembers",
    "WrongAgent",
    "WrongContract",
]

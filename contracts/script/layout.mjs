// The storage layout of a cluster as text that changes only when the layout does. Used by artifacts.mjs.

/** Fields of a struct: "first slot + byte: bytes type name". */
function fields(types, { members }) {
  return members.map(({ label, slot, offset, type }) =>
    `${slot}+${offset}: ${types[type].numberOfBytes} ${types[type].label} ${label}`);
}

/**
 * From the build output of StorageLayout.sol: which struct each namespace holds, and every struct that is reached from there.
 * `codes` are the build outputs of the contracts that run on this storage: they may have no variables of their own.
 */
export function storageLayout({ storageLayout: { storage, types } }, codes) {
  for (const [name, { storageLayout: own }] of Object.entries(codes)) {
    if (own.storage.length > 0) throw new Error(`${name} declares state variables, which would lie upon DstackApp's: ${own.storage.map(({ label }) => label)}`);
  }
  const namespaces = Object.fromEntries(storage.map(({ label, type }) => [label, types[type].label]));
  const structs = Object.fromEntries(Object.values(types)
    .filter(({ members }) => members)
    .map((type) => [type.label, fields(types, type)])
    .sort(([a], [b]) => (a < b ? -1 : 1)));
  // Two writings of one layout: OpenZeppelin's, and ours, which may call the fields otherwise.
  const shape = (namespace) => structs[namespaces[namespace]].map((field) => field.replace(/ \S+$/, "")).join("\n");
  if (!shape("erc721").startsWith(shape("erc721AsReadHere"))) {
    throw new Error("WalletTokens.Erc721 is not how OpenZeppelin's ERC-721 lays out its state");
  }
  return { namespaces, structs };
}

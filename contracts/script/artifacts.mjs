// What is committed of forge's output: for cargo the ABI one sees at the proxy's address, and creation code; for upgrades the
// storage layout. Run by artifacts.sh.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { storageLayout } from "./layout.mjs";

const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const built = (name) => read(`${process.env.FOUNDRY_OUT}/${name}.sol/${name}.json`);

/** Entries of several ABIs, each once, in a stable order. */
function merge(...abis) {
  const entries = new Map(abis.flat().map((entry) => [signature(entry), entry]));
  return [...entries.keys()].sort().map((key) => entries.get(key));
}

function signature({ type, name = "", inputs = [] }) {
  const text = (input) => input.type + (input.components ? `(${input.components.map(text)})` : "");
  return `${type} ${name}(${inputs.map(text)})`;
}

/** What one entry promises its callers, but for parameter names. */
function promise(entry) {
  return `${signature(entry)} ${entry.stateMutability ?? ""} returns (${(entry.outputs ?? []).map(({ type, components = [] }) => type + components.map((c) => c.type))})`;
}

const cluster = built("DstackClusterNFT");
const extension = built("ClusterExtension");
const proxy = built("ERC1967Proxy");

// No single contract implements the interface, so the compiler does not check that both together do.
const implemented = new Set([...cluster.abi, ...extension.abi].map(promise));
const promised = built("IDstackClusterNFT").abi.filter(({ type }) => type === "function").map(promise);
const missing = promised.filter((entry) => !implemented.has(entry));
if (promised.length === 0 || missing.length > 0) {
  console.error(`artifacts: IDstackClusterNFT declares what no code implements:\n  ${missing.join("\n  ")}`);
  process.exit(1);
}
const layout = storageLayout(built("StorageLayout"), { DstackClusterNFT: cluster, ClusterExtension: extension });
const outputs = {
  // The extension's functions are reached through the cluster's fallback, which its own ABI does not list.
  "bindings/artifacts/DstackClusterNFT.json": { abi: merge(cluster.abi, extension.abi, built("IDstackClusterNFT").abi), bytecode: cluster.bytecode.object },
  "bindings/artifacts/ERC1967Proxy.json": { abi: merge(proxy.abi), bytecode: proxy.bytecode.object },
  "snapshots/storage-layout.json": layout,
};

let stale = false;
mkdirSync("bindings/artifacts", { recursive: true });
for (const [path, output] of Object.entries(outputs)) {
  const fresh = `${JSON.stringify(output, null, 1)}\n`;
  const committed = existsSync(path) ? readFileSync(path, "utf8") : "";
  if (committed === fresh) continue;
  if (!process.argv.includes("--check")) {
    writeFileSync(path, fresh);
    if (output === layout) console.error(`artifacts: the storage layout has changed; see what 'git diff ${path}' means for a cluster that is upgraded`);
  } else {
    console.error(`artifacts: ${path} differs from a fresh build; run 'npm run artifacts' in contracts/ and commit it`);
    stale = true;
  }
}
process.exitCode = stale ? 1 : 0;

// Fails where a figure of gas in an interface's documentation is not a measured one (snapshots/costs.json), rounded up to a thousand.
// Run by artifacts.sh --check.
import { readFileSync } from "node:fs";

/** Which measured costs the documentation of a function names; a list of two means their difference. */
const DOCUMENTED = {
  IAppAuth: {
    addComposeHash: ["addComposeHash"],
    removeComposeHash: ["removeComposeHash"],
    addDevice: ["addDevice"],
    removeDevice: ["removeDevice"],
    setAllowAnyDevice: ["setAllowAnyDevice"],
    setRequireTcbUpToDate: ["setRequireTcbUpToDate"],
    disableUpgrades: ["disableUpgrades"],
  },
  IClusterPolicy: {
    setClusterConfig: ["setClusterConfig"],
    setMintingPolicy: ["setMintingPolicy"],
    withdraw: ["withdraw"],
    pauseRegistrations: ["pauseRegistrations"],
    unpauseRegistrations: ["unpauseRegistrations"],
    setDevMode: ["setDevMode"],
    mintNodeAccess: ["mintNodeAccess"],
    registerInstance: ["registerInstance"],
    setDevUrl: ["setDevUrl", "setDevUrl of 256 bytes"],
  },
  IDstackClusterNFT: {
    initialize: ["upgrade a DstackApp to a cluster"],
    mint: ["mint, bound, 1 members", ["mint, bound for one app", "mint, bound, 1 members"]],
    bind: ["bind, 1 members", ["bind, for one app", "bind, 1 members"]],
    registerPeer: [
      "join, bound at mint, 1 members",
      "join of an unbound token, by its owner",
      "the first join of a cluster",
      "rotate the key, 5000 members",
      ["join, bound at mint, with a TLS key beside", "join, bound at mint, 1 members"],
      ["join, bound at mint, with endpoint and gateway", "join, bound at mint, 1 members"],
      ["join, bound for one app", "join, bound at mint, 1 members"],
      ["join, bound at mint, by guest API v1", "join, bound at mint, 1 members"],
    ],
    updateEndpoint: ["update the endpoint, 1 members", "update the endpoint, with endpoint and gateway"],
    deactivate: ["deactivate, 1 members", "deactivate, of a leader that voted"],
    burn: ["burn of a peer, 1 members", "burn, of a leader that voted"],
    revoke: ["revoke, 1 members", "revoke, of a leader that voted"],
    reinstate: ["reinstate"],
    addKmsRoot: ["addKmsRoot"],
    removeKmsRoot: [
      "removeKmsRoot",
      "removeKmsRoot, with peers",
      "removeKmsRoot, with the leader",
      "removeKmsRoot, the fourth in a row with peers",
    ],
    addAppId: ["addAppId"],
    removeAppId: ["removeAppId", "removeAppId, with peers", "removeAppId, with the leader and peers under 16 roots"],
    addBaseDomain: ["addBaseDomain"],
    removeBaseDomain: ["removeBaseDomain"],
  },
  ILeaderElection: {
    castVote: ["vote, 1 members", "vote that deposes", "vote that deposes, with 32 stale registrations ahead"],
    castVoteBySig: [
      "signed vote, 1 members",
      "signed vote that deposes",
      "signed vote that deposes, with 32 stale registrations ahead",
    ],
    electLeader: [
      "elect the next, of a leader that voted",
      "elect a leader, 1 members",
      "elect a leader, none found, with 32 stale registrations ahead",
    ],
  },
};

/** Not measured as whole transactions: what the protocol charges for a slot or an account, and bounds. */
const OTHER_FIGURES = new Set(["17,100", "25,000", "72,000", "6,000"]);

const costs = JSON.parse(readFileSync("snapshots/costs.json", "utf8"));
const cost = (name) => {
  if (!(name in costs)) throw new Error(`snapshots/costs.json measures no "${name}"`);
  return Number(costs[name]);
};
const rounded = (gas) => (Math.ceil(gas / 1000) * 1000).toLocaleString("en-US");
const figure = (entry) => rounded(Array.isArray(entry) ? cost(entry[0]) - cost(entry[1]) : cost(entry));

let wrong = 0;
for (const [file, functions] of Object.entries(DOCUMENTED)) {
  const source = readFileSync(`src/interfaces/${file}.sol`, "utf8");
  for (const [name, entries] of Object.entries(functions)) {
    const [, comment] = source.match(new RegExp(`((?:    ///.*\n)+)    function ${name}\\(`)) ?? [];
    if (!comment) throw new Error(`${file}.${name} has no documentation`);
    const said = comment.match(/\b\d{1,3},\d{3}\b/g) ?? [];
    const measured = entries.map(figure);
    for (const missing of measured.filter((value) => !said.includes(value))) {
      console.error(`costs: ${file}.${name} does not say ${missing}, which is measured`);
      wrong += 1;
    }
    for (const extra of said.filter((value) => !measured.includes(value) && !OTHER_FIGURES.has(value))) {
      console.error(`costs: ${file}.${name} says ${extra}, which is not measured`);
      wrong += 1;
    }
  }
}
process.exitCode = wrong > 0 ? 1 : 0;

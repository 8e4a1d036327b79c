# The two commands are `make demo` and `make test`. Both run on a fresh Debian 12 or 13 with Rust 1.95 or later and Node 20+,
# as root or as a user with sudo: cargo always runs as the user, only what needs network namespaces runs as root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo programs test nightly test-apps build dist check soak fuzz bench deps packages root-or-sudo what-demo-does fmt words version planted clippy doc deny advisories-update forge-lint

UID := $(shell id -u)
# `sudo make …`: hand the compiler back to the user who typed it.
INVOKER := $(if $(filter 0,$(UID)),$(filter-out root,$(SUDO_USER)))
INVOKER_HOME := $(if $(INVOKER),$(shell getent passwd $(INVOKER) | cut -d: -f6))
INVOKER_PATH := $(if $(INVOKER),$(shell runuser -u $(INVOKER) -- env HOME=$(INVOKER_HOME) bash -lc 'echo "$$PATH"'))
AS_USER := $(if $(INVOKER),runuser -u $(INVOKER) -- env HOME=$(INVOKER_HOME) PATH=$(INVOKER_HOME)/.cargo/bin:$(INVOKER_PATH))
AS_ROOT := $(if $(filter 0,$(UID)),,sudo)
CARGO := $(AS_USER) cargo
NPM := $(AS_USER) npm

# What tests and demo call besides cargo and node.
PACKAGES := curl docker-compose gcc git iproute2 iptables iputils-ping libc6-dev make nftables procps python3-venv tcpdump util-linux wireguard-go wireguard-tools
# What only tests with databases call.
DATABASES := etcd-client etcd-server openssl patroni postgresql redis-server redis-tools
# Alerts and metrics; promtool comes with it.
MONITORING := prometheus
NODE_MODULES := contracts/node_modules/.package-lock.json

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

demo: what-demo-does programs ## Three nodes, a fourth live, one revoked; stays up until Ctrl-C (ONCE=1: exits by itself).
	@$(AS_ROOT) env ONCE=$(ONCE) target/debug/demo

# What demo and examples run.
programs: deps
	$(CARGO) build --workspace --bins

what-demo-does:
	@[[ -x target/debug/demo ]] || printf '%s\n' \
	  "The first time this takes about 5 minutes on two cores: it installs what is missing (Debian packages, anvil by npm) and compiles" \
	  "the agent, its tools and a simulated TEE, of which cargo shows the progress. After that the demo takes some seconds: it deploys" \
	  "the contract on a chain of its own, and nodes in network namespaces join, ping each other and are revoked, step by step."

test: PACKAGES += $(MONITORING) systemd
test: deps ## The tests of every change: Rust, simulation, Solidity, SDKs, and what meets the kernel. Five minutes.
	@.ci/test "$(CARGO)" "$(AS_USER)"

nightly: PACKAGES += $(DATABASES) $(MONITORING) binutils busybox-static debootstrap faketime g++ kmod lintian podman qemu-system-x86 systemd-container xz-utils
nightly: deps ## What asserts seconds of a real machine or runs for long; hours (ONLY=name,…: these parts of .ci/nightly).
	@ONLY="$(ONLY)" WIREGUARD_GO=$(WIREGUARD_GO) .ci/nightly "$(CARGO)" "$(AS_USER)"

test-apps: PACKAGES += $(DATABASES)
test-apps: deps ## Databases on the mesh: etcd, Redis Cluster, PostgreSQL under Patroni (QUICK=1: their shorter tests).
	@QUICK=$(QUICK) .ci/test-apps "$(CARGO)" "$(AS_USER)"

build: ## Release build: target/release/{p2p-agent,meshctl,dstack-simulator}.
	$(AS_USER) env MESH_COMMIT=$$($(AS_USER) git rev-parse --short=12 HEAD || true) cargo build --release -p p2p-agent -p meshctl -p dstack-simulator

dist: PACKAGES := binutils git lintian python3-venv xz-utils
dist: packages ## Everything to install, in dist/: packages, images, archives, wheel (OUT=, TARGETS=: packaging/dist).
	@$(AS_USER) env OUT=$(OUT) TARGETS="$(TARGETS)" packaging/dist

check: fmt words version planted clippy doc deny forge-lint ## Formatting, plain words, planted bugs that apply, lints, documentation, dependencies.

soak: PACKAGES += $(DATABASES)
soak: deps ## The long seeded runs of `make nightly` (an hour or so); SOAK_SEED=N repeats one.
	@ONLY=soak,properties,solidity .ci/nightly "$(CARGO)" "$(AS_USER)"

bench: PACKAGES += iperf3
bench: packages ## wg-tunnel beside other tunnels (QUICK=1: three minutes; ROUNDS=, ONLY=, RIVALS=, WIREGUARD_GO=: agent/tunnel/bench).
	@QUICK=$(QUICK) ROUNDS=$(ROUNDS) ONLY=$(ONLY) RIVALS=$(RIVALS) WIREGUARD_GO=$(WIREGUARD_GO) .ci/bench "$(CARGO)" "$(AS_USER)" "$(AS_ROOT)"

fuzz: PACKAGES += g++
fuzz: packages ## The device's parsers under libFuzzer (TARGET=, SECONDS=300 for each, INPUT=file: one again, KEEP=1: .ci/fuzz).
	@FUZZ_TARGET=$(TARGET) FUZZ_SECONDS=$(SECONDS) FUZZ_INPUT=$(INPUT) FUZZ_KEEP=$(KEEP) .ci/fuzz "$(AS_USER)"

deps: packages $(NODE_MODULES) ## Install what is missing: Debian packages, npm packages in contracts/.

packages: root-or-sudo
	@.ci/install $(PACKAGES)

root-or-sudo:
	@[[ $(UID) == 0 ]] || command -v sudo >/dev/null || { \
	  echo "error: network namespaces and Debian packages need root, and there is no sudo here; run make as root" >&2; exit 1; }

$(NODE_MODULES): contracts/package-lock.json
	@$(AS_USER) bash -c 'command -v npm' >/dev/null || { echo "error: npm is missing; install Node 20 or later" >&2; exit 1; }
	cd contracts && $(NPM) ci --ignore-scripts && $(AS_USER) touch ../$@

# One set of packages and features, so that lints and documentation share what they compile of the dependencies. Tests that cargo
# does not run by default are no part of `--all-targets`.
CHECKED := --workspace --features dstack-p2p/tls,mesh-aead/bench,mesh-offload/bench,tunnel-bench/bench

fmt:
	$(CARGO) fmt --all --check

words:
	@$(AS_USER) .ci/words
	@$(AS_USER) .ci/words-test

version:
	@$(AS_USER) .ci/version

# That the simulation finds them is seen by `make nightly`; that they can be planted, with each change.
planted:
	@for patch in agent/sim/mutations/*.patch; do $(AS_USER) git apply --check "$$patch"; done

clippy:
	$(CARGO) clippy $(CHECKED) --all-targets -- -D warnings
	$(CARGO) clippy $(CHECKED) --test '*' -- -D warnings

doc:
	$(AS_USER) env RUSTDOCFLAGS="-D warnings" cargo doc $(CHECKED) --no-deps --document-private-items

deny: packages
	@$(AS_USER) .ci/deny check
	@$(AS_USER) .ci/deny-test

advisories-update: packages ## Ask the newest advisories about every crate (ADVISORY_DB=: a clone of their database).
	@$(AS_USER) env ADVISORY_DB=$(ADVISORY_DB) .ci/deny update

forge-lint: $(NODE_MODULES)
	cd contracts && $(NPM) run --silent lint

# KNHK. `make` alone lists what there is; everything works from a clean clone with no step before it.
#
# Needed: Rust (cargo), a C compiler, Python 3 with pip (fetches a real Envoy and other peers of demo and tests), and for the
# tests openssl and flock. As root on Debian or Ubuntu what is missing of these is installed, save Rust.
# Everything is built in the release profile, tests too, so that dependencies are compiled once.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo

WASM := wasm32-unknown-unknown

# Scripts that `make lint` parses.
SCRIPTS := .ci/run filter/build-wasm.sh $(wildcard tests/peers/*.sh) tests/peers/install.bash tests/fuzz/run.sh

# Benchmarks write on the disk of the build: the system's temporary directory may be memory.
BENCH_DISK := $(CURDIR)/target
RECEIPTS_BENCH := $(CARGO) bench --quiet -p knhk-receipts --features testing --bench

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: tools ## Build the service and command line, target/release/knhk, and the filter, knhk_filter.wasm
	$(CARGO) build --release -p knhk-ext-authz
	./filter/build-wasm.sh

.PHONY: demo
demo: build harness ## Show a canary that succeeds and one that is rolled back, on a real Envoy, and verify the receipts
	./target/release/knhk-demo

.PHONY: test
test: ready ## Run every test, the ones with real peers included
	$(CARGO) test --release --workspace

.PHONY: soak
soak: ready ## Run the long tests, such as 1,000 restarts of the service under open streams
	$(CARGO) test --release --workspace --tests -- --ignored
	./tests/fuzz/run.sh 60

.PHONY: fuzz
fuzz: tools ## Fuzz each parser that meets the network for a minute
	./tests/fuzz/run.sh 60

.PHONY: bench
bench: build harness ## Measure, and print the tables of the README
	./target/release/knhk-bench
	@printf '\nDurable appends, with two signatures a flush at any rate, beside the raw disk and Tessera.\n\n'
	@if said="$$(./tests/peers/tessera.sh 2>&1 | tail -n 1)"; then set -- --tessera "$$said"; \
	else echo "Tessera: not run: $$said"; set --; fi; \
	$(RECEIPTS_BENCH) append -- "$$@" "$(BENCH_DISK)"
	@printf '\nA log that grows.\n\n'
	@$(RECEIPTS_BENCH) append -- --growth "$(BENCH_DISK)"
	@printf '\nAudit of a log, and verification of receipts.\n\n'
	@$(RECEIPTS_BENCH) audit -- "$(BENCH_DISK)"
	@printf '\nHandshakes of a listener.\n\n'
	@$(CARGO) bench --quiet -p knhk-identity --features testing --bench handshakes
	@printf '\nEvaluation of feature flags.\n\n'
	@$(CARGO) bench --quiet -p knhk-flags --bench flags
	@printf '\nWhole rollouts on random traffic, and how soon a bad canary is found beside a threshold and Mann-Whitney.\n\n'
	@$(CARGO) run --release --quiet -p knhk-promotion --example false_alarms -- 100
	@$(CARGO) run --release --quiet -p knhk-promotion --example detection -- 20
	@printf '\nA region that catches up with another one.\n\n'
	@$(CARGO) bench --quiet -p knhk-regions --bench catch_up -- "$(BENCH_DISK)"

.PHONY: lint
lint: tools ## Check format, lints, dependencies and scripts, as CI does first
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	if rustup target list --installed 2>/dev/null | grep -qx $(WASM); then \
		$(CARGO) clippy --release -p knhk-filter --target $(WASM) -- -D warnings; \
	else \
		echo "not run: clippy of the filter's Envoy side, which needs: rustup target add $(WASM)"; \
	fi
	./tests/peers/cargo-deny.sh check bans licenses sources
	for script in $(SCRIPTS); do bash -n "$$script"; done
	if command -v shellcheck >/dev/null; then \
		shellcheck -x -P SCRIPTDIR $(SCRIPTS); \
	else \
		echo "not run: shellcheck, which is not installed"; \
	fi

.PHONY: clean
clean: ## Delete what was built; ~/.cache/knhk keeps the tools that were fetched
	$(CARGO) clean

# Demo and benchmarks. Built together with the service: Cargo chooses the features of dependencies for all packages that
# it builds at once, so the harness alone would compile most of them a second time.
.PHONY: harness
harness: envoy
	$(CARGO) build --release -p knhk-ext-authz -p knhk-tests

# All that tests need. The peers are installed while Rust is compiled: SPIRE alone is built for minutes, the first time.
.PHONY: ready
ready: tools
	@$(MAKE) peers & peers=$$!; trap 'kill $$peers 2>/dev/null || true' EXIT; $(MAKE) compiled; wait $$peers

.PHONY: compiled
compiled: build
	$(CARGO) test --release --workspace --no-run

# Tests of a peer that cannot be had say themselves that they are not run; without Envoy most cannot.
.PHONY: peers
peers: envoy
	@./tests/peers/tools.sh openssl flock
	@for peer in azure flagd moto scitt transit spire; do \
		./tests/peers/$$peer.sh >/dev/null || echo "not run: tests with $$peer, for the reason above" >&2; \
	done

.PHONY: envoy
envoy: tools
	@./tests/peers/envoy.sh >/dev/null

# One line for each tool that is missing and cannot be installed here, and no more.
.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust $(MSRV) or newer with rustup" >&2; exit 1; }
	@./tests/peers/tools.sh cc python3

MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

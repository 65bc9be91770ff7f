# KNHK. `make` alone lists what there is; everything works from a clean clone with no step before it.
#
# Needed: Rust (cargo), Python 3 with pip (fetches a real Envoy for demo and tests) and a C compiler.
# Everything is built in the release profile, tests too, so that dependencies are compiled once.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo

WASM := wasm32-unknown-unknown

# Scripts that `make lint` parses.
SCRIPTS := .ci/run filter/build-wasm.sh $(wildcard tests/peers/*.sh) tests/fuzz/run.sh

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
test: build envoy ## Run every test, the ones with a real Envoy included
	$(CARGO) test --release --workspace

.PHONY: soak
soak: build envoy ## Run the long tests, such as 1,000 restarts of the service under open streams
	$(CARGO) test --release --workspace --tests -- --ignored
	./tests/fuzz/run.sh 60

.PHONY: fuzz
fuzz: tools ## Fuzz each parser that meets the network for a minute
	./tests/fuzz/run.sh 60

.PHONY: bench
bench: build harness ## Measure, and print the tables of the README
	./target/release/knhk-bench

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

.PHONY: clean
clean: ## Delete what was built; ~/.cache/knhk keeps the tools that were fetched
	$(CARGO) clean

# Demo and benchmarks. Built together with the service: Cargo chooses the features of dependencies for all packages that
# it builds at once, so the harness alone would compile most of them a second time.
.PHONY: harness
harness: envoy
	$(CARGO) build --release -p knhk-ext-authz -p knhk-tests

.PHONY: envoy
envoy: tools
	@./tests/peers/envoy.sh >/dev/null

# One line for each tool that is missing, and no more.
.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust $(MSRV) or newer with rustup" >&2; exit 1; }
	@command -v python3 >/dev/null || { echo "python3 is missing: apt-get install python3 python3-pip" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }

MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

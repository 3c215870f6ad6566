# The targets that people and the CI run. `make` alone lists them.

CARGO ?= cargo
# More arguments for `cargo test`, for instance: make test TEST_FLAGS=--no-fail-fast
TEST_FLAGS ?=

# Followed by the name of a module of tests/e2e.
SOAK = $(CARGO) test --release --locked --test e2e -- --nocapture

SCRIPTS := .ci/run $(wildcard scripts/*.sh deploy/*.sh)

# Where scripts/install-check-tools.sh puts what is missing.
export PATH := $(CURDIR)/target/tools/bin:$(CURDIR)/target/venv-tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help test test-fast check fmt clippy deny proto doc shell deploy advisories bench bench-revoke bench-faults cluster examples demo \
	mutants soak \
	test-tools check-tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: test-tools ## run every test (KEYWARD_TEST_PYTHON: another Python for the Python tests)
	$(CARGO) test --workspace --locked $(TEST_FLAGS)

test-fast: test-tools ## the tests that need no Postgres and no Redis: under a minute after the build
	$(CARGO) test --workspace --locked --lib --bins $(TEST_FLAGS)
	$(CARGO) test --locked --test api --test contract --test docs $(TEST_FLAGS) -- --skip postgres

check: fmt clippy deny proto doc shell deploy ## formatting, lints, licences, proto files, docs, scripts, deploy/

fmt: ## formatting
	$(CARGO) fmt --all --check

clippy: ## lints
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: check-tools ## licences, banned crates and sources of the dependencies
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources

proto: check-tools ## the proto files: lint and formatting
	buf lint
	buf format --diff --exit-code

doc: ## the documentation of the code
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked

shell: check-tools ## the scripts
	shellcheck --external-sources $(SCRIPTS)

deploy: check-tools ## what is in deploy/: Dockerfile, compose.yaml, the balancer, the systemd units
	scripts/check-deploy.sh

advisories: check-tools ## known holes in the dependencies (needs the network)
	$(CARGO) deny --locked check --hide-inclusion-graph advisories

bench: ## what a Verify hit costs beside an empty call
	$(CARGO) bench --locked --bench verify

bench-revoke: test-tools ## what a Revoke costs on three instances; writes docs/results.md
	$(CARGO) bench --locked --bench revoke

bench-faults: test-tools ## what faults of Redis cost, and what it gives; writes docs/faults.md
	$(CARGO) bench --locked --bench faults

cluster: test-tools ## Postgres and three instances on this machine, until Ctrl-C
	$(CARGO) build --release --locked
	scripts/cluster.sh

examples: test-tools check-tools ## the examples in Python, Go and TypeScript, against a service
	$(CARGO) build --locked
	scripts/examples.sh

demo: ## play the story in the terminal: a person, the bot, an API; only Telegram is played
	$(CARGO) run --quiet --locked --example demo

mutants: test-tools ## break the code with each patch of proof/mutants: a test must notice
	scripts/mutants.sh

soak: test-tools ## kill -9 under traffic 200 times, each fault of a cluster 20, each race of the story 100 (KEYWARD_SOAK_ROUNDS)
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-200} $(SOAK) durability::
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-20} $(SOAK) cluster::
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-100} $(SOAK) story:: --skip deploy::

test-tools:
	scripts/install-test-tools.sh

check-tools:
	scripts/install-check-tools.sh

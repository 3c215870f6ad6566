# The targets for developers and for CI. `make` without a target lists them.

CARGO ?= cargo
# Additional arguments for `cargo test`, for example: make test TEST_FLAGS=--no-fail-fast
TEST_FLAGS ?=

# Most of a test's time is waiting, so two run on each core.
export RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

# The build has its own flags, so cargo keeps its results apart from the others.
LOOM = $(CARGO) test --config 'build.rustflags="--cfg=loom"' -p keyward-core --test loom --locked

# Followed by the name of a module of tests/e2e.
SOAK = $(CARGO) test --profile soak --locked --test e2e -- --nocapture

SCRIPTS := .ci/run $(wildcard scripts/*.sh deploy/*.sh)

# The directories of the tools that scripts/install-check-tools.sh installs.
export PATH := $(CURDIR)/target/tools/bin:$(CURDIR)/target/venv-tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help test test-fast test-matrix check fmt clippy deny proto openapi doc shell deploy advisories bench bench-revoke bench-faults bench-abuse cluster examples demo \
	mutants loom model fuzz simulate soak update-docs \
	test-tools check-tools

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: test-tools ## run all tests (KEYWARD_TEST_PYTHON: the interpreter for the Python tests)
	$(CARGO) test --workspace --locked $(TEST_FLAGS)
	$(LOOM) $(TEST_FLAGS)

test-fast: test-tools ## run the tests that need no Postgres and no Redis
	$(CARGO) test --workspace --locked --lib --bins $(TEST_FLAGS)
	$(CARGO) test --locked --test api --test contract --test docs $(TEST_FLAGS) -- --skip postgres

test-matrix: test-tools ## run the tests of servers on PostgreSQL 15 to 18 and on Valkey 9 (SERVERS names some)
	scripts/test-matrix.sh $(SERVERS)

check: fmt clippy deny proto doc shell deploy ## run all checks: fmt, clippy, deny, proto, doc, shell, deploy

fmt: ## check the formatting
	$(CARGO) fmt --all --check

clippy: ## check the lints
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: check-tools ## check the licences and sources of the dependencies, and banned crates
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources

proto: check-tools ## check the lints and the formatting of the proto files, and the OpenAPI document
	buf lint
	buf format --diff --exit-code
	scripts/openapi.sh --check
	openapi-spec-validator crates/proto/src/gen/openapi.json

openapi: check-tools ## generate the OpenAPI document from the proto files (builds a generator in Go the first time)
	scripts/openapi.sh

doc: check-tools ## build the documentation of the code and the book (into target/book)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked
	mdbook build docs

update-docs: test-tools ## rewrite tables, outputs and pictures in the documents from the code
	UPDATE_DOCS=1 $(CARGO) test --locked --package keyward-bot --lib screens
	UPDATE_DOCS=1 $(CARGO) test --locked --test docs

shell: check-tools ## check the shell scripts
	shellcheck --external-sources $(SCRIPTS)

deploy: check-tools ## check deploy/: Dockerfile, compose.yaml, load balancer, systemd units
	scripts/check-deploy.sh

advisories: check-tools ## check the dependencies for known vulnerabilities (requires the network)
	$(CARGO) deny --locked check --hide-inclusion-graph advisories

bench: test-tools ## measure Verify and its doors, compared with empty calls (PARTS: calls, doors, cold, flood, near, agent, import, scale); writes docs/speed.md
	$(CARGO) bench --locked --bench speed -- $(PARTS)

bench-revoke: test-tools ## measure the cost of a Revoke on three instances; writes docs/results.md
	$(CARGO) bench --locked --bench revoke

bench-faults: test-tools ## measure the benefit of Redis and the cost of its faults; writes docs/faults.md
	$(CARGO) bench --locked --bench faults

bench-abuse: ## measure what attackers can take from an instance; writes docs/reference/limits.md
	$(CARGO) bench --locked --bench abuse

cluster: test-tools ## run Postgres and three instances on this machine until Ctrl-C
	$(CARGO) build --release --locked
	scripts/cluster.sh

examples: test-tools check-tools ## run the examples in Python, Go and TypeScript against a service
	$(CARGO) build --locked
	scripts/examples.sh

demo: ## show a user, the bot and an API in the terminal; only Telegram is simulated
	$(CARGO) run --quiet --locked --example demo

mutants: test-tools ## apply each faulty patch of proof/mutants; a test must fail
	scripts/mutants.sh

loom: ## hand the fence's state between threads in every order of their steps; prints the numbers of orders
	$(LOOM) -- --nocapture

model: ## search the rules exhaustively, with all of them and without each; prints states and seconds
	$(CARGO) run --release --locked -p keyward-model
	$(CARGO) run --release --locked -p keyward-model -- --each-rule

fuzz: ## run each fuzz target for FUZZ_SECONDS (60); FUZZ_TARGETS names some
	scripts/fuzz.sh $(FUZZ_TARGETS)

simulate: ## simulate SEEDS (10000) deployments with faults, from FIRST_SEED (1000) on; prints what happened
	KEYWARD_SEEDS=$${SEEDS:-10000} KEYWARD_FIRST_SEED=$${FIRST_SEED:-1000} \
		$(CARGO) test --profile soak --locked --test simulation -- --nocapture the_promise_holds_for_every_seed

soak: test-tools ## repeat kill -9 under traffic 200 times, cluster faults 20, doors 8, story races 100 (KEYWARD_SOAK_ROUNDS)
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-200} $(SOAK) durability::
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-20} $(SOAK) cluster::
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-8} $(SOAK) doors::
	KEYWARD_SOAK_ROUNDS=$${KEYWARD_SOAK_ROUNDS:-100} $(SOAK) story:: --skip deploy::

test-tools:
	scripts/install-test-tools.sh

check-tools:
	scripts/install-check-tools.sh

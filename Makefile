# What people and CI do here, as thin lines over cargo. `make` lists it.
# Needed: Rust, Python 3, make, a C compiler. No Docker, no root, nothing global.

CARGO ?= cargo
PROFILE ?= debug
TARGET := $(or $(CARGO_TARGET_DIR),target)
# One profile and one set of features for every step, so that nothing is compiled twice.
RELEASE := $(if $(filter release,$(PROFILE)),--release)
TEST := $(CARGO) test --workspace --locked $(RELEASE)
BIN := $(TARGET)/$(PROFILE)
STEP := @scripts/step
# Whether no `make run` runs here.
IDLE := { [ ! -e .run/lock ] || python3 -c \
	'import fcntl; fcntl.flock(open(".run/lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; }

# How long (ms) the programs' allocator keeps freed memory before it gives it back: taking it again at once
# cost 5 to 8 % of their processor time (docs/performance.md). The images say the same.
export MIMALLOC_PURGE_DELAY ?= 1000

# How long `make fuzz` runs each target, in seconds.
TIME ?= 300

# What `make test-canary` leaves and searches.
CANARY := $(CURDIR)/.canary

# How many requests `make fuzz-api` makes.
REQUESTS ?= 10000

# The crash tests' random choices; the same seed kills the same processes.
SEED ?= 1
FAULTS ?= 100
# Which scenario of docs/faults.md, and how long a fault lasts that may last any time.
SCENARIO ?= all
FOR ?= 30s

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test-soak test-scenarios tools check-tools deny sbom docker-programs docker-local-images build run test test-unit test-it test-doc test-e2e test-faults-quick test-faults test-canary fuzz fuzz-api bench bench-search \
	fmt fmt-check lint check migrate docs clean ci

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '%s\n' '' \
	  '  make run DISPATCHERS=3                    three dispatchers share the work' \
	  '  make run NATS_URL=… DATABASE_URL=…        servers of your own' \
	  '  make run ALLOW_PRIVATE_ENDPOINTS=0        as strict about endpoints as production' \
	  '  make run PROFILE=release                  an optimised build (compiles longer)' \
	  '  CARGO_TARGET_DIR=… make run               compiles there instead of in target' \
	  '  make run WEBHOOKS_RETRY_BASE=1s           any setting of docs/settings.md'

# What a killed run left is not to be taken for the next one's; nothing happens while one runs.
run: tools
	@if $(IDLE); then rm -f .run/env; fi
	@$(MAKE) --no-print-directory build
	@exec $(BIN)/webhooks up
run: ## Start everything, show one delivery, stay up until Ctrl-C

test: fmt-check lint tools check-tools deny build test-unit test-doc test-it test-faults-quick ## Everything that belongs to every change
	@printf '\n== make test: all steps passed\n'

build: ## Compile every program
	$(STEP) "compile ($(PROFILE); the first time takes minutes)" $(CARGO) build --workspace --bins --locked $(RELEASE)

tools: ## Fetch nats-server and PostgreSQL into this folder
	$(STEP) "servers" python3 scripts/fetch-tools

check-tools: tools
	$(STEP) "tools of the checks" python3 scripts/fetch-checks

deny: check-tools ## Licences, sources and bans of dependencies (ADVISORIES=fetch: known holes too)
	$(STEP) "dependencies" scripts/deny

sbom: ## Write sbom.cdx.json: everything that the programs are made of (CycloneDX)
	@$(CARGO) xtask sbom sbom.cdx.json
	@echo 'wrote sbom.cdx.json'

test-unit: ## Unit and property tests
	$(STEP) "unit and property tests" $(TEST) --lib --bins --quiet

test-doc: ## Examples in the documentation
	$(STEP) "documentation tests" $(TEST) --doc --quiet

test-it: tools check-tools build ## Integration and end-to-end tests, with real servers
	$(STEP) "integration and end-to-end tests" $(TEST) --test '*' --quiet

test-e2e: tools check-tools build ## The whole system as a black box, only
	$(STEP) "end-to-end tests" $(CARGO) test --locked -p webhooks-e2e

test-faults-quick: tools build
	$(STEP) "crash test, quick form, seed $(SEED)" $(BIN)/webhooks-loadgen faults --quick --seed $(SEED)

test-faults: tools build ## A long crash test: SEED=1 FAULTS=100
	$(STEP) "crash test, $(FAULTS) faults, seed $(SEED)" $(BIN)/webhooks-loadgen faults --seed $(SEED) --faults $(FAULTS)

test-canary: tools check-tools build ## All tests at TRACE; then all they wrote is searched for secrets
	@rm -rf $(CANARY)
	@failed=0; \
	WEBHOOKS_LOG=trace WEBHOOKS_TEST_KEEP=$(CANARY) scripts/step "unit, integration and end-to-end tests at TRACE" \
	    $(TEST) --lib --bins --test '*' --no-fail-fast --quiet || failed=1; \
	scripts/step "search for canaries" $(BIN)/webhooks-devstack search $(CANARY) && [ "$$failed" = 0 ]

fuzz: ## Each parser under fuzz, TIME=300 seconds long (needs a nightly compiler and cargo-fuzz)
	$(STEP) "fuzz" scripts/fuzz $(TIME)

fuzz-api: tools build ## Every route asked what /openapi.json allows and what it does not: REQUESTS=10000
	$(STEP) "tools of the fuzzing" python3 scripts/fetch-checks schemathesis
	$(STEP) "fuzz the API, $(REQUESTS) requests, seed $(SEED)" env PROFILE=$(PROFILE) CARGO_TARGET_DIR=$(TARGET) nice scripts/fuzz-api $(REQUESTS) $(SEED)

test-scenarios: tools build ## One kind of fault each: SCENARIO=list|all|NAME FOR=30s|10m (docs/faults.md)
	$(STEP) "scenarios: $(SCENARIO)" $(BIN)/webhooks-loadgen scenario $(SCENARIO) --for $(FOR) --seed $(SEED)

bench: PROFILE := release
bench: tools build ## The benchmark table
	$(STEP) "benchmark" $(TARGET)/release/webhooks-loadgen bench

bench-search: PROFILE := release
bench-search: tools build ## Every list and search over 10,000,000 deliveries (needs 20 GB of disk)
	$(STEP) "search benchmark" $(TARGET)/release/webhooks-loadgen bench-search

# What takes longer than a change should wait. SOAK_FOLDER needs some 10 GB.
SOAK_FOLDER ?= bench-results
SOAK := $(TARGET)/release/webhooks-loadgen soak
test-soak: PROFILE := release
test-soak: tools build ## Scale and bad neighbours: 100,000 endpoints, 1,000,000 retries, 10,000 that hang
	$(STEP) "five hundred hostile receivers" $(CARGO) test --locked --release -p webhooks-egress --test soak
	$(STEP) "floods of 1xx" $(SOAK) --folder $(SOAK_FOLDER) floods
	$(STEP) "a slow tenant" $(SOAK) --folder $(SOAK_FOLDER) tenant
	$(STEP) "10,000 endpoints that hang" $(SOAK) --folder $(SOAK_FOLDER) hanging
	$(STEP) "100,000 endpoints" $(SOAK) --folder $(SOAK_FOLDER) endpoints
	$(STEP) "1,000,000 retries" $(SOAK) --folder $(SOAK_FOLDER) retries

fmt: ## Format the code
	$(CARGO) fmt --all

fmt-check:
	$(STEP) "formatting" $(CARGO) fmt --all --check

lint: ## Lints; warnings are errors
	$(STEP) "lints" $(CARGO) clippy --workspace --all-targets --locked -- -D warnings

check: ## Type-check only
	$(CARGO) check --workspace --all-targets --locked

migrate: build ## Bring WEBHOOKS_DATABASE_URL and WEBHOOKS_NATS_URL to this version
	@$(BIN)/webhooks migrate

docs: build ## Write docs/settings.md anew
	@mkdir -p docs
	@$(BIN)/webhooks config --markdown > docs/settings.md.partial
	@mv docs/settings.md.partial docs/settings.md

docker-programs: build ## Put the compiled programs where Dockerfile.programs takes them
	@mkdir -p .docker/programs
	@cd $(BIN) && for program in webhooks webhooks-ingest webhooks-fanout webhooks-dispatcher \
	    webhooks-management webhooks-loadgen; do strip -o $(CURDIR)/.docker/programs/$$program $$program || exit 1; done

docker-local-images: tools ## Make the images docker-compose.yml starts from, without a registry
	$(STEP) "images" scripts/local-images

clean: ## Remove what run, test and build left (refuses while `make run` runs)
	@$(IDLE) || { echo 'make run is running here: stop it first' >&2; exit 1; }
	rm -rf .run .run-fuzz .run-fuzz-log .docker .canary bench-results sbom.cdx.json
	$(CARGO) clean

ci: ## What the CI runs
	@.ci/run

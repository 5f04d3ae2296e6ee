# Two commands: `make lab` opens the lessons, `make test` runs everything that CI runs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: lab test check lessons stored thumbnails bench

lab: $(READY)  ## JupyterLab on the lessons; ARGS go to it: make lab ARGS="--no-browser"
	$(BIN)/missviz lab $(ARGS)

test: $(READY) check  ## everything that CI runs
	$(BIN)/python -m pytest $(ARGS)
	# Once more with every shape annotation checked. (beartype itself draws from random.)
	$(BIN)/python -m pytest tests/adapters/test_contract.py -q -k "not compiles" \
		--jaxtyping-packages=missviz.adapters,missviz.analysis,beartype.beartype \
		-W ignore::hypothesis.errors.HypothesisDeprecationWarning
	$(BIN)/python -m pytest --nbmake notebooks --nbmake-timeout=300 --durations=10

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lessons: $(READY)  ## write notebooks/*.ipynb from notebooks/*.py
	for lesson in notebooks/*.py; do $(BIN)/jupytext --quiet --to ipynb --update $$lesson; done

stored: $(READY)  ## run anew what ships as stored runs, and draw the gallery's thumbnails
	$(BIN)/python -c 'from missviz.explore import stored; stored.main()'

thumbnails: $(READY)
	$(BIN)/python -c 'from missviz.explore import stored; stored.write_thumbnails()'

bench: $(READY)
	$(BIN)/missviz bench no-free-lunch $(ARGS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "missviz needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $(READY)

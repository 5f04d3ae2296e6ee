# `make lab` opens the lessons; `make quick`, `make test`, `make claims` and `make gpu` check (CONTRIBUTING.md).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: lab quick test claims gpu wheels check lessons stored real ledger thumbnails bench

lab: $(READY)  ## JupyterLab on the lessons; ARGS go to it: make lab ARGS="--no-browser"
	$(BIN)/missviz lab $(ARGS)

quick: $(READY)  ## lint, types, and one case of each kind: at most 90 seconds on two cores
	$(BIN)/python tools/steps.py quick $(ARGS)

test: $(READY)  ## everything that CI proves: at most 10 minutes on two cores; ARGS go to pytest
	$(BIN)/python tools/steps.py test $(ARGS)

claims: $(READY)  ## the ledger: what takes 20 s at most measured anew, and a mutant for each claim
	$(BIN)/python tools/steps.py claims $(ARGS)

# On a GPU, in at most 9 minutes. WHEELS=folder: by PYTHON's own torch, where nothing can be fetched.
DEVICE ?= cuda
LIMIT  ?= 540
OUT    ?= benchmarks/results/gpu
GPU    := tools/gpu.py --device $(DEVICE) --limit $(LIMIT) --out $(OUT) $(if $(SMALL),--small)

ifdef WHEELS
gpu:
	$(PYTHON) $(GPU) --wheels $(WHEELS)
else
gpu: $(READY)
	$(BIN)/python $(GPU)
endif

wheels: $(READY)  ## what `make gpu WHEELS=wheels` needs; ARGS="--have FILE --python 3.12"
	$(BIN)/python tools/wheels.py $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lessons: $(READY)  ## write notebooks/*.ipynb from notebooks/*.py
	for lesson in notebooks/*.py; do $(BIN)/jupytext --quiet --to ipynb --update $$lesson; done

stored: $(READY)  ## run anew what ships as stored runs, and draw the gallery's thumbnails
	$(BIN)/python -c 'from missviz.explore import stored; stored.main()'

real: $(READY)  ## hours, resumed if cut: run the real network's parts anew, and ship what they gave
	$(BIN)/missviz reproduce real-network --out real-network-results
	$(BIN)/python -c 'from missviz.real_network.storage import store_all; store_all("real-network-results")'

ledger: $(READY)  ## measure anew what changes outdated (minutes), and write the README's tables
	$(BIN)/missviz claims run --stale --seconds 1800
	$(BIN)/python tools/ledger.py

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
	@# A network and its sentences, for missviz.networks; without them what needs them is left out.
	-$(BIN)/python -m missviz.networks
	touch $(READY)

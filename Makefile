# `make` alone lists the verbs. Each one creates and fills .venv by itself, and installs again only
# when a requirements file or pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.installed-run
DEV_READY := $(VENV)/.installed-dev
WORKERS ?= auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench train

help:
	@echo "make run     start the dashboard on localhost and print its address (another port: make run PORT=8600;"
	@echo "             for a class on the local network: make run ADDRESS=<this machine's address there>)"
	@echo "make test    run every test: engine, models, dashboard, and a real browser where Chromium is installed"
	@echo "make check   format, lint and types, without changing anything"
	@echo "make bench   time the engine against float passes, full sweeps and ONNX Runtime"
	@echo "make train   train the sample models again from their seeds"

# With ADDRESS the server listens there, and answers browsers that ask for exactly that name.
ifneq ($(filter 0.0.0.0 ::,$(ADDRESS)),)
$(error ADDRESS is $(ADDRESS), which names no machine. Give the address by which the class reaches this one, such as 192.168.1.20)
endif
SERVE := $(if $(PORT),--server.port $(PORT)) \
	$(if $(ADDRESS),--server.address $(ADDRESS) --server.allowedHosts $(ADDRESS) --browser.serverAddress $(ADDRESS))

run: $(RUN_READY)
ifdef ADDRESS
	@echo "Hand out: http://$(ADDRESS):$(or $(PORT),8501)/learn"
	@echo "Who reaches $(ADDRESS) can open it, read every saved run and start work here: no sign-in, no encryption. Ctrl-C ends it."
endif
	$(BIN)/streamlit run dashboard/app.py $(SERVE)

# In the order of the folders, so that one Chromium serves all browser tests of a worker, one after another.
test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(DEV_READY)
	@failed=0; \
	for step in "ruff format --check ." "ruff check ." "mypy"; do \
		echo "$$step"; $(BIN)/$$step || failed=1; \
	done; \
	exit $$failed

bench: $(DEV_READY)
	$(BIN)/python -m benchmarks $(ARGS)

train: $(RUN_READY)
	$(BIN)/python -m sample_models.training $(ARGS)

# An environment counts as made only once pip works in it: an interrupted creation is repeated.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, but $(PYTHON) is older or missing. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN_READY): requirements.txt pyproject.toml | $(VENV)/.made
	@echo "Installing into $(VENV); the first time takes a minute or more."
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV_READY): requirements-dev.txt requirements.txt pyproject.toml | $(VENV)/.made
	@echo "Installing into $(VENV); the first time takes a minute or more."
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(RUN_READY)

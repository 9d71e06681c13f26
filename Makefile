# Two commands: `make run` serves, `make test` checks. Both install what they need into .venv (Python 3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Not from the environment: some shells and Conda keep other things in HOST.
HOST := 127.0.0.1
PORT ?= 8000

# Where this is set, each server that a test starts would compile all packages anew: a second of its time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test drift clean

run: $(VENV)/.runs
	@$(BIN)/python -m mistral_filter serve --sandbox --host $(HOST) --port $(PORT)

test: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder

# Compares the tables with Mistral's newest SDK, in an environment of its own; exit status 1 on a difference.
drift:
	@test -d $(VENV)-drift || $(PYTHON) -m venv $(VENV)-drift
	@$(VENV)-drift/bin/pip install --quiet --upgrade mistralai msgspec
	@PYTHONPATH=. $(VENV)-drift/bin/python tests/tools/drift.py

clean:
	rm -rf $(VENV) $(VENV)-drift

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runs: requirements.txt | $(BIN)/pip
	@echo 'Installing the packages of requirements.txt into $(VENV) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

# uv resolves and installs in seconds what takes pip most of a minute; where it cannot be had, pip does. What is not imported need
# not be compiled.
$(VENV)/.tests: requirements.txt pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt -e '.[test]' \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -e '.[test]'
	@touch $@ $(VENV)/.runs

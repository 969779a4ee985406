# Everything a developer types. Each target brings `.venv` up to date first, which takes a moment when nothing changed.

PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$candidate" && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PORT ?= 5000
export PORT
# Containers set it. Here each process, of which the tests start hundreds, would compile the project again: 0.4 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: run install test chaos format check bench build lock clean help

run: $(INSTALLED) ## start everything in one terminal: http://127.0.0.1:$PORT (5000)
	@$(BIN)/python cli.py dev run

install: $(INSTALLED) ## make .venv, put everything into it and compile the project's bytecode
	@$(BIN)/python -m compileall -q app flask_belfry jobs migrations *.py

test: $(INSTALLED) ## run the whole test suite; ARGS go to pytest, PICTURES=docs/images takes those of the README again
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

chaos: $(INSTALLED) ## run the stack under load and faults and compare the books; FAULTS=100, SEED repeats a run
	@$(BIN)/python -m tests.chaos --faults $(or $(FAULTS),100) $(if $(SEED),--seed "$(SEED)") $(ARGS)

format: $(INSTALLED) ## format the code as `make check` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: $(INSTALLED) ## lint, types, import rules, migrations, unused code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python cli.py dev check-migrations
	$(BIN)/vulture

bench: $(INSTALLED) ## measure Belfry beside its peers, one line per figure; ARGS=--quick takes a few minutes
	@$(BIN)/python -m bench $(ARGS)

build: $(INSTALLED) ## build the distribution, a wheel and a source archive, in dist/
	@$(BIN)/uv build --offline --no-config --python $(BIN)/python --out-dir dist

lock: $(INSTALLED) ## write requirements*.txt and their hashes again from requirements*.in; ARGS=--upgrade takes newer versions
	$(BIN)/uv pip compile $(LOCK) $(ARGS) requirements.in -o requirements.txt
	$(BIN)/uv pip compile $(LOCK) $(ARGS) requirements-dev.in -o requirements-dev.txt

LOCK := --quiet --universal --generate-hashes --python-version 3.11 --annotation-style line --custom-compile-command 'make lock'

clean: ## remove .venv and caches; instance/ with its data stays
	rm -rf .venv dist bench/.venvs .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

# uv installs in seconds what pip takes a minute for, and compiles bytecode only when told to; where it cannot be had, pip reads the same lock. Both, and the
# installation of uv, refuse a file whose hash is not in the lock.
$(INSTALLED): requirements.txt requirements-dev.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Belfry needs Python 3.11 or newer: install it, or name it with PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv || \
		{ rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv …"
	@sed -n '/^uv==/,/^ *#/p' requirements-dev.txt > .venv/uv.txt
	@{ $(PIP) --require-hashes -r .venv/uv.txt && \
		$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements-dev.txt; } || \
		$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

# The two commands of the README are `make quickstart` and `make test`; everything runs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-fast fuzz test-slow test-t5x lint format install docs release-check clean help

help:
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

quickstart: $(STAMP) ## install, then train and evaluate OFA on all eight tasks (about 15 minutes)
	$(BIN)/python -m ofa_jax.train --gin_file=gin_configs/runs/quickstart.gin

# In the order of the directories: by count, the files of few long tests would come last, one alone.
test: $(STAMP) ## install, then run the default tests (under 15 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The edit loop: what each core room promises, without a training run or a large compilation.
FAST := tests/architecture/test_imports.py tests/architecture/test_release.py tests/test_bundled.py \
	tests/test_schema.py tests/test_digest.py tests/test_lock.py tests/text tests/metrics \
	tests/losses/test_cross_entropy.py tests/sharding/test_mesh.py \
	tests/training/test_schedule.py tests/data/steps tests/data/tasks/test_instruction.py \
	tests/cli/test_messages.py
test-fast: $(STAMP) ## a minute's check of every core room
	$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

test-slow: $(STAMP) ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow

# The python that has t5x's own dependencies; see docs/t5x.md.
T5X_PYTHON ?= $(BIN)/python
test-t5x: $(STAMP) ## the tests of the t5x adapter; T5X_DIR=DIRECTORY is the checkout of t5x
	T5X_DIR="$(T5X_DIR)" $(T5X_PYTHON) -m pytest -rs -m "slow or not slow" tests/t5x

fuzz: $(STAMP) ## every reader of foreign files for a minute; what breaks one goes to tests/hostile/found
	$(BIN)/python -m tests.hostile.fuzz --seconds 60

lint: $(STAMP) ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

release-check: $(STAMP) lint ## tag, CHANGELOG, the wheel in fresh environments
	$(BIN)/python -m tests.release
	$(BIN)/python -m pytest -m slow tests/integration/test_wheel.py

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP) ## make .venv and install the project with its tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

docs: $(STAMP) ## the site of docs/ in build/site, strict: a broken link fails; open build/site/index.html
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean: ## remove the environment; runs stay
	rm -rf $(VENV) build *.egg-info

# One target per thing that people do. Each needs Python 3.11 to 3.13 and nothing else; `install` makes .venv.
#
#   make demo [DATA=folder] [PRESET=demo|cpu|cpu_hour|nightly|full]     the main job, end to end, through Airflow
#   make up | down                                             the embedded Postgres, S3 and Airflow
#   make test | lint | bench                                   what the repository claims, checked
#   make lock                                                  resolve the dependencies anew

PYTHON ?= python3
# Your own uv.toml could name a folder of other builds; a mirror is named by UV_DEFAULT_INDEX. UV_FLAGS= reads it.
UV_FLAGS ?= --no-config
UV_VERSION := 0.13.9
UV := .venv/bin/uv $(UV_FLAGS)
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet

.PHONY: install demo up down test lint bench lock

install: .venv/.installed

demo: install
	.venv/bin/fracture demo $(if $(DATA),--data "$(DATA)") $(if $(PRESET),--preset "$(PRESET)")

up: install
	.venv/bin/fracture stack up

down: install
	.venv/bin/fracture stack down

# The tests of the whole stack wait for Airflow most of the time: they run beside the others, and are printed last. They
# have a folder of their own, since pytest closes the one that is shared to the system user whom Postgres runs as.
test: lint
	@said=$$(mktemp); temp=$$(mktemp -d); \
	PYTEST_DEBUG_TEMPROOT="$$temp" .venv/bin/python -m pytest tests/stack >"$$said" 2>&1 & stack=$$!; \
	trap 'kill $$stack' INT TERM; \
	.venv/bin/python -m pytest --ignore tests/stack; others=$$?; \
	wait $$stack; stack=$$?; cat "$$said"; rm -f "$$said"; [ $$stack != 0 ] || rm -rf "$$temp"; exit $$((others + stack))

lint: install
	.venv/bin/ruff check .
	.venv/bin/lint-imports

bench: install
	@set -e; for benchmark in training tuning scoring ingest planning; do echo "== $$benchmark"; .venv/bin/python -m benchmarks.$$benchmark; done

lock: .venv/bin/uv
	$(COMPILE) --extra dev --extra dicom --output-file requirements.lock
	$(COMPILE) --extra server --extra dicom --output-file requirements-server.lock

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo >&2 \
		"This needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1): install one of them, or name it with PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo >&2 \
		"$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, install python3-venv"; exit 1; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: .venv/bin/uv requirements.lock pyproject.toml
	$(UV) pip install --python .venv/bin/python --require-hashes --requirement requirements.lock
	$(UV) pip install --python .venv/bin/python --no-deps --editable .
	@# Compiled once and by all cores: otherwise each server and each task compiles what it imports, and where
	@# PYTHONDONTWRITEBYTECODE is set, again and again. What nobody imports is left out: half of the time.
	.venv/bin/python -m compileall -qq -j 0 -x '/(tests?|testing|pip|setuptools)/' .venv/lib
	@touch $@

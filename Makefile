# Set-up happens by itself, in .venv, whenever pyproject.toml or constraints.txt change.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup repro published paper smoke sim-speed rdma gate test test-rdma check format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the suite (happens by itself)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install python3.11 and python3.11-venv, or call make PYTHON=..." >&2; exit 3; }
	@echo "setting up .venv with $(PYTHON) (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@quiet=--quiet; [ -t 1 ] && quiet=; \
	$(BIN)/python -m pip install $$quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

repro: $(READY) ## the main job: replay under all arms on the real engine, simulate the same, simulate the paper (under 40 min)
	@$(BIN)/python bench/cpu.py || [ $$? -eq 2 ] # a void run fails its checks in the report
	@$(BIN)/python bench/native_load.py
	@$(BIN)/python bench/sim_vs_real.py || [ $$? -eq 2 ]
	@status=0; $(BIN)/python reports/cpu.py || status=$$?; $(BIN)/python reports/sim_vs_real.py || status=$$?; \
	$(MAKE) --no-print-directory published || status=$$?; $(MAKE) --no-print-directory paper || status=$$?; exit $$status

published: $(READY) ## reports on rows that were measured elsewhere (reports/published)
	@$(BIN)/python bench/sim_vs_real.py --published
	@$(BIN)/python reports/sim_vs_real.py --published || [ $$? -eq 1 ]
	@for report in gpu gpu_sharing gpu_model gpu_copy gates; do $(BIN)/python reports/$$report.py || [ $$? -eq 1 ] || exit; done # what they missed is said

paper: $(READY) ## simulate every figure and table of the paper, write reports/out/paper/index.html (under 20 min)
	@$(BIN)/python bench/paper.py || [ $$? -eq 2 ] # a void run fails its checks in the report
	@$(BIN)/python reports/paper.py

smoke: $(READY) ## trace to report in under 90 s, tiny trace, every arm on 1P1D
	@$(BIN)/python bench/cpu.py --smoke bench/out/smoke
	@$(BIN)/dualpath report bench/out/smoke/*/*/r0 -o reports/out/smoke --title "Smoke: the tiny trace, every arm"

sim-speed: $(READY) ## how fast the simulator is, beside DynoSim and SimPy from PyPI (20 min, a quiet machine)
	@$(BIN)/python bench/sim_speed.py
	@$(BIN)/python reports/sim_speed.py

rdma: $(READY) ## RDMA measured in guests: isolation of traffic classes, cost of posting, rate (10 min)
	@$(BIN)/python bench/rdma.py && $(BIN)/python reports/rdma.py

gate: $(READY) ## did the last commit, or what is not committed yet, make it slower? (6 min; bench/README.md)
	@base=HEAD; [ -n "$$(git status --porcelain)" ] || base=HEAD^; $(BIN)/dualpath gate bench/gates/ci.toml --base $$base

test: $(READY) ## all tests (under 20 min)
	@$(BIN)/python -m pytest

test-rdma: $(READY) ## tests of RDMA, in guests with Debian's kernel and its software RDMA device (15 min)
	@$(BIN)/python tests/rdma/guest.py --install || [ $$? -eq 77 ] # 77: skipped, it has said why
	@$(BIN)/python tests/rdma/two_guests.py || [ $$? -eq 77 ]

check: $(READY) ## format, lint, types, import rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_import_rules.py

format: $(READY) ## reformat
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## delete everything that can be made again
	@rm -rf .venv bench/out reports/out build harness/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

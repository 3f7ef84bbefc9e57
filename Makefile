# make run    the demo server behind the proxy, from a bare checkout
# make test   lint, then every test
# make lint   style, types and the direction of imports
# make sim    long simulation campaigns: SEEDS=100000 of each scenario
# make sweep  crash actors at every line that they come to, in the simulator
# make stops  start and stop the proxy under load: STOPS=200 times
# make bench  measure (see bench/); make bench-streams: event streams;
#             make bench-endpoints: one of three servers fails;
#             make bench-overload: twice as much is offered as can be served
# make chaos  play the scorecard of faults on real processes: SEED=1 ROWS="U1 N4"; REPEAT=20: play
#             rows so often on one proxy, look for leaks; none begins after REPEAT_S=1800 seconds
# make soak   mixed traffic and faults for an hour: SOAK_S=3600
# make docs   make the tables of docs/configuration.md and docs/metrics.md anew
# make clean  remove what the others made

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
LISTEN ?= 127.0.0.1:8808
PYTEST_ARGS ?=
# Tests of one module run in one process, modules side by side, in their order: sorted by how many
# tests they have, those with a few long ones would come last, and one process wait for the other.
JOBS ?= 2
SEEDS ?= 100000
STOPS ?= 200
SEED ?= 1
SOAK_S ?= 3600
ROWS ?=
REPEAT ?=
REPEAT_S ?= 1800

BIN := $(VENV)/bin
PACKAGING := setup.cfg setup.py pyproject.toml

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0

.PHONY: run test lint peers sim sweep stops chaos soak bench bench-streams bench-endpoints bench-overload docs clean

run: $(VENV)/run.stamp
	$(BIN)/proxy-actors run --listen $(LISTEN) -- $(abspath $(BIN))/python -m proxy_actors.demo

# Compiled first: each of the hundreds of processes that tests start would compile anew where it may
# not write.
test: lint peers
	$(BIN)/python -m compileall -q proxy_actors chaos tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/python -m flake8
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# The script does nothing when all is there. Without npm it ends the run: tests with real peers
# are never skipped.
peers:
	@sh tests/peers/install.sh

# The rare states and the planted defects are the matter of the campaigns of `make test`. One
# scenario alone: make sim PYTEST_ARGS="-k test_whole".
sim: $(VENV)/dev.stamp
	SIM_SEEDS=$(SEEDS) $(BIN)/python -m pytest -n $(JOBS) --dist load -o faulthandler_timeout=0 \
	    -k under_every_seed tests/sim $(PYTEST_ARGS)

sweep: $(VENV)/dev.stamp
	SWEEP_STRIDE=1 $(BIN)/python -m pytest -n $(JOBS) --dist load -o faulthandler_timeout=0 \
	    -k is_borne tests/sim/test_sweep.py $(PYTEST_ARGS)

stops: $(VENV)/dev.stamp
	STOPS=$(STOPS) $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/wire/test_stops.py

bench: $(VENV)/dev.stamp
	sh bench/install.sh $(BIN)/python
	$(BIN)/python bench/run.py

bench-streams: $(VENV)/dev.stamp
	$(BIN)/python bench/streams.py

bench-endpoints: $(VENV)/dev.stamp
	$(BIN)/python bench/endpoints.py

bench-overload: $(VENV)/dev.stamp
	$(BIN)/python bench/overload.py

# A run of all rows is written down, and one of repeats that names none.
chaos: $(VENV)/dev.stamp
ifeq ($(REPEAT),)
	$(BIN)/python -m chaos --seed $(SEED) $(or $(ROWS),--write docs/faults.md)
else
	$(BIN)/python -m chaos.repeats --seed $(SEED) --times $(REPEAT) --within-s $(REPEAT_S) \
	    $(or $(ROWS),--write docs/repeats.md)
endif

soak: $(VENV)/dev.stamp
	SOAK_S=$(SOAK_S) $(BIN)/python -m chaos.soak --seed $(SEED) --write docs/soak.md

docs: $(VENV)/dev.stamp
	$(BIN)/python -m proxy_actors.config.reference docs/configuration.md
	$(BIN)/python -m proxy_actors.metrics docs/metrics.md

clean:
	rm -rf $(VENV) .bench build dist *.egg-info .mypy_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than what they were made from, so a second run installs nothing.
# --no-build-isolation: once setuptools is there, pip needs no network to install again.
$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed (Debian: apt install python3)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
	    || { echo "the venv module is needed (Debian: apt install python3-venv)"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'setuptools>=77'
	touch $@

$(VENV)/run.stamp: $(VENV)/venv.stamp $(PACKAGING)
	$(BIN)/pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/venv.stamp $(PACKAGING)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $@

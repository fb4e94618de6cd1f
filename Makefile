# make demo     set up .venv if needed, then train and sample on real footage; writes runs/demo/report.html
# make test     set up .venv if needed, then run every test that needs no GPU, on three workers (tests/conftest.py);
#               those on a real Slurm where slurm-wlm and munge are installed and you are root. What was skipped is listed,
#               and what took longest
# make test-slurm   all tests on a real Slurm, those too that are too long for make test
# make test-long    more of what make test proves in short: kills at random times, damages, further layouts
# make parity   every parallel layout on up to 8 processes against the single process
# make lint     ruff and pyright
PYTHON      ?= python3
# Which torch: constraints.txt. A GPU site that brings its own: make setup CONSTRAINTS=/dev/null VENV_OPTIONS=--system-site-packages
CONSTRAINTS ?= constraints.txt
VENV_OPTIONS ?=
VIDEO       ?=
BIN         := .venv/bin
EXTRAS      := dali,demo,dev
# What a node of a cluster may have and .venv has not: a test starts ranks under it. A folder apart and no dependencies,
# because with it comes pynvml, at which every import of torch warns.
FT_LAUNCHER := nvidia-resiliency-ext==0.4.1 defusedxml

.PHONY: setup demo test test-gpu test-slurm test-long parity lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else "cosmos-train needs Python 3.11 or 3.12, this is %d.%d; name one with make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV_OPTIONS) .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/ft_launcher $(FT_LAUNCHER) \
	  || echo "$(FT_LAUNCHER): not for this machine; its test will be listed as skipped" >&2
	@touch $@

demo: .venv/installed
	$(BIN)/python -m cosmos_launch.demo --out runs/demo $(if $(VIDEO),--video '$(VIDEO)')

test: .venv/installed
	$(BIN)/python -m pytest -m 'not gpu and not long' --numprocesses 3 --dist loadgroup --no-loadscope-reorder \
	  --durations=40 --durations-min=1

test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu

test-slurm: .venv/installed
	@lacking=$$(slurm/testcluster/cluster.sh missing | tr '\n' ' '); test -z "$$lacking" \
	  || { echo "not here: $$lacking: as root, apt-get install slurm-wlm munge" >&2; exit 3; }
	$(BIN)/python -m pytest -m slurm

test-long: .venv/installed
	$(BIN)/python -m pytest -m 'long and not slurm'

parity: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/parity.py

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean:
	rm -rf .venv runs dist

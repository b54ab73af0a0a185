# The human interface. `make demo` and `make test` need nothing but Python 3.11+ and this folder.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
SCALE ?= paper
RESULTS ?= results/$(SCALE)$(if $(SEED),-seed$(SEED))
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
# For figures: DATASETS="cifar10" SEED=7 CONTROL=permute-scores REPLICATES=8 LEVELS=12 YES=1 DATA=/folder DOWNLOAD=1 TENSORBOARD=/folder
# On a cluster: make -j64 -k figure2 LAUNCH="srun --gpus=1 -c4 -t 4:00:00"; every job has a log beside its artifact.
CHOICE = $(if $(filter own,$(SCALE)),,--scale $(call quoted,$(SCALE))) --results $(call quoted,$(RESULTS)) \
  $(foreach d,$(DATASETS),--dataset $(call quoted,$(d))) $(call option,--seed,$(SEED)) $(call option,--control,$(CONTROL)) \
  $(call option,--replicates,$(REPLICATES)) $(call option,--levels,$(LEVELS))
RUN_OPTIONS = $(call option,--data-dir,$(DATA)) $(if $(DOWNLOAD),--download) $(call option,--device,$(DEVICE)) \
  $(call option,--tensorboard,$(TENSORBOARD))
# A word for the shell, whatever is in it; an option with its value, where there is one.
quoted = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call quoted,$(2)))
REPRO := $(VENV)/bin/python -m repro
BENCHMARKS := $(VENV)/bin/python -m benchmarks
# Processes of one thread each: two torch processes with two threads on two cores are many times slower.
export OMP_NUM_THREADS ?= 1
export LAUNCH

FIGURES := figure1 figure2 figure3 figure4 figure5 figure6 appendix scores
# As many as -j says; else what a CPU can do runs in a process per core, the rest in one: a GPU is filled by one.
AT_ONCE = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(if $(filter demo scores cpu own,$(SCALE)),$(JOBS),1))
# Rules of this make alone: another one beside it may be asked for other things. The jobs wait for each other by their logs.
RULES = $(RESULTS)/.$(notdir $(NAME))-$(MAKE_ID).mk
MAKE_ID := $(shell echo "$$(uname -n)-$$PPID")

.PHONY: help demo figures figure $(FIGURES) verify report archive test test-all test-slow test-gpu smoke lint bench docs lock image image-check clean
help:
	@echo 'make demo      Figure 2 on real 8x8 digits with verdicts and a report: no GPU, no download (4 minutes on 2 cores)'
	@echo 'make figures SCALE=demo   all seven figures on digits (11 minutes on 2 cores)'
	@echo 'make test      the core tests, in a process per core (5 minutes on 2 cores)'
	@echo 'make test-all  all tests but the slow ones: Ray, Slurm, Chromium, the wheel, too; make test-slow: those in minutes each; make test-gpu: those for CUDA'
	@echo 'make lint      ruff, types of the Python interface, and the workflow by its schema'
	@echo 'make smoke     every command chained on tiny subsets'
	@echo 'make figure2   Figure 2 as published (SCALE=paper), or SCALE=day, cpu, small, demo; so figure1 to figure6, appendix'
	@echo 'make figures   all of them, one plan; make verify: one table of verdicts for the whole paper'
	@echo 'make report    one HTML page of all that was made so far, beside the paper'
	@echo 'make scores    EL2N of the real CIFAR-10, clean and with 10 and 50 % of the labels randomised, in hours on a CPU'
	@echo 'make figure FIGURE=mine.py   a figure of your own'
	@echo 'make bench     this machine: images/s and memory of every engine against a plain script (8 minutes, leave it alone)'
	@echo 'make archive   everything of all figures, or of FIGURE=figure2, in one zip to publish; SCALE= and the rest as above'
	@echo 'make -j64 -k figure2 LAUNCH="srun --gpus=1 -c4 -t 4:00:00"   the same on a Slurm cluster'
	@echo 'make image     the CUDA image, by docker, podman or buildah; make image-check builds one on a fresh Debian and tries it'
	@echo 'make docs      write the generated parts of docs/commands.md and docs/claims.md anew'
	@echo 'make lock      resolve requirements.in into requirements.txt; make clean: remove the environment and builds'
	@echo 'Figures take SCALE=demo, DATASETS=cifar10, SEED=7, REPLICATES=8, LEVELS=12, CONTROL=permute-scores, RESULTS=/folder, DATA=/folder, DOWNLOAD=1, JOBS=2, YES=1'

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Ray, TensorBoard, and what the tests and `make lint` are run with.
$(VENV)/.extras: $(VENV)/.installed requirements-extras.txt
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements-extras.txt
	@touch $@

# What `make bench` compares engines with, if it is there. Its own build does not say where pybind11's headers are;
# its setuptools is the lock's.
$(VENV)/.sparseprop: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet pybind11==3.0.1
	CPATH=$$($(VENV)/bin/python -m pybind11 --includes | sed 's/.*-I//') \
	  $(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation sparseprop==0.1.14
	@touch $@

demo: SCALE := demo
demo: $(VENV)/.installed
	@+$(MAKE) --no-print-directory figure2 SCALE=demo
	@$(REPRO) report figure2 $(CHOICE) > /dev/null
	@printf '\npicture  %s\ntable    %s\nreport   %s\nnext     %s\n' $(call quoted,$(DEMO).png) $(call quoted,$(DEMO)-verdicts.md) \
	  $(call quoted,$(RESULTS)/report.html) \
	  $(call quoted,make figures SCALE=demo$(if $(SEED), SEED=$(SEED)) (all seven; what is made already is taken up))
DEMO = $(RESULTS)/figure2$(if $(CONTROL),-$(CONTROL))

scores: SCALE := scores
# One of your own, FIGURE=mine.py: docs/own-work.md.
figure: SCALE := own
figure: RESULTS = results/$(basename $(notdir $(FIGURE)))
figures figure $(FIGURES): NAME = $(if $(filter figures,$@),all,$(if $(filter figure,$@),$(or $(FIGURE),$(error give the file: FIGURE=mine.py)),$@))
figures figure $(FIGURES): $(VENV)/.installed
	@results=$(call quoted,$(RESULTS)); rules=$(call quoted,$(RULES)); there=$$results; \
	  while test ! -e "$$there"; do there=$$(dirname "$$there"); done; test -w "$$there" || \
	  { echo "$$results"' cannot be written by user '$$(id -u)': make the folder first, or name another one with RESULTS= (in a container: --user)' >&2; exit 2; }; \
	  trap 'test $$? = 0 || { rm -f "$$rules"; while test "$$results" != "$$there" && rmdir "$$results" 2>/dev/null; \
	  do results=$$(dirname "$$results"); done; }' EXIT; trap 'exit 130' INT TERM; \
	  $(REPRO) plan $(call quoted,$(NAME)) $(CHOICE) --make "$$rules" --options $(call quoted,$(RUN_OPTIONS)) \
	  --jobs $(call quoted,$(AT_ONCE)) $(call option,--device,$(DEVICE)) $(if $(YES)$(LAUNCH),--yes)
	@+rules=$(call quoted,$(RULES)); trap 'rm -f "$$rules"' EXIT; trap 'exit 130' INT TERM; test ! -e "$$rules" || \
	  $(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(call quoted,$(AT_ONCE))) -f "$$rules" all || \
	  { status=$$?; $(REPRO) status $(call quoted,$(NAME)) $(CHOICE) --failed >&2; exit $$status; }
	@$(REPRO) --log $(call quoted,$(RESULTS)/figures.log) figure $(call quoted,$(NAME)) $(CHOICE) then verify $(call quoted,$(NAME)) $(CHOICE)

verify: SCALE := $(if $(wildcard results/paper),paper,demo)
verify: $(VENV)/.installed
	@$(REPRO) verify $(CHOICE)

report: SCALE := $(if $(wildcard results/paper),paper,demo)
report: $(VENV)/.installed
	@$(REPRO) report $(CHOICE)

archive: SCALE := $(if $(wildcard results/paper),paper,demo)
archive: $(VENV)/.installed
	@$(REPRO) archive $(call quoted,$(or $(FIGURE),all)) $(CHOICE)

# A process per core, each of one thread (tests/conftest.py) and up to 1.5 GB. Whoever is done first takes tests from the others.
PYTEST = $(VENV)/bin/python -m pytest -n $(call quoted,$(JOBS)) --maxprocesses 8 --dist worksteal

test: $(VENV)/.extras
	$(PYTEST) -m 'not slow and not heavy'

# The core first, then what needs Ray, Slurm, Chromium or a wheel, or takes long.
test-all: test
	$(PYTEST) -m 'heavy and not slow'

test-slow: $(VENV)/.extras
	$(VENV)/bin/python -m pytest -m slow

# GPUs are hidden from all other tests, which compare bits with a CPU's.
test-gpu: $(VENV)/.extras
	$(VENV)/bin/python -m pytest -m gpu

lint: $(VENV)/.extras
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

smoke: $(VENV)/.installed
	$(VENV)/bin/python -m pytest tests/test_smoke.py

bench: $(VENV)/.installed
	@$(BENCHMARKS) $(call option,--device,$(DEVICE)) $(foreach word,$(BENCH),$(call quoted,$(word)))

# What docs/commands.md and docs/claims.md hold below their mark.
docs: $(VENV)/.installed
	$(VENV)/bin/python -m docs.generate
	$(VENV)/bin/python -m docs.pictures

lock: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet uv==0.13.9
	@for lock in requirements requirements-extras; do $(VENV)/bin/python -m uv pip compile --quiet --universal \
	  --generate-hashes --python-version 3.11 $$(test $$lock = requirements || echo -c requirements.txt) \
	  --custom-compile-command 'make lock' --no-emit-index-url --no-emit-find-links $$lock.in -o $$lock.txt || exit; done

image:
	@container/build $(foreach word,$(IMAGE),$(call quoted,$(word)))

image-check: $(VENV)/.installed
	@container/check || { status=$$?; test $$status = 77 || exit $$status; }

clean:
	rm -rf $(VENV) build *.egg-info

# Works in any shell, whether ROS from apt is sourced or not: everything goes into a virtual environment.
#   make demo | test | check | ... [PYTHON=python3.12] [ROS_DISTRO=jazzy]
# What is installed is locked: locks/ holds tested versions and their hashes, for each Python and ROS
# distribution. UNLOCKED=1 installs the newest that setup.cfg allows instead.
PYTHON = python3
ROS_DISTRO = kilted
BAG =
TOPIC =
LOWER_EXTRAS = cpu,data,dev,replay
LOCKED = 3.10-kilted 3.11-kilted 3.12-kilted 3.12-jazzy
UNLOCKED =
EXTRAS_run = cpu,replay
EXTRAS_train = cpu,data,train
EXTRAS_dev = cpu,data,dev,ray,replay,train
# PyTorch as tested; no lock holds it, since its files differ from index to index. From PyPI it brings
# CUDA, several GB; where there is no NVIDIA GPU, spare them with
# TORCH_INDEX=https://download.pytorch.org/whl/cpu.
TORCH = torch==2.13.0 torchvision==0.28.0
TORCH_INDEX =

ifeq ($(PYTHON) $(ROS_DISTRO),python3 kilted)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(ROS_DISTRO)
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
lock_of = locks/$(1)-$(VERSION)$(if $(filter train,$(1)),,-$(ROS_DISTRO)).txt
ros_of = $(if $(filter train,$(1)),,ros-$(ROS_DISTRO)$(comma))
comma := ,
# Installs what one of run, train and dev needs. $(2): PyTorch, which no lock holds.
define install
$(if $(UNLOCKED),$(PIP) $(2) -e '.[$(call ros_of,$(1))$(EXTRAS_$(1))]',
test -f $(call lock_of,$(1)) || { echo "There is no $(call lock_of,$(1)): UNLOCKED=1 installs the newest."; false; }
$(PIP) --require-hashes --no-deps -r $(call lock_of,$(1))
$(if $(2),$(PIP) $(2))
$(PIP) --no-deps --no-build-isolation -e .)
endef
WITH_TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
# Whatever an editable install copies or builds: a change of it means installing again.
PACKAGING := $(wildcard locks/*) setup.py setup.cfg pyproject.toml $(wildcard resource/*.sh resource/lib/*/* launch/*.py \
	config/* cone_perception/interfaces/vision_msgs/*.* cone_perception/interfaces/vision_msgs/msg/*)

unexport PYTHONPATH AMENT_PREFIX_PATH LD_LIBRARY_PATH VIRTUAL_ENV PYTHONHOME

MINUTES = 10

.PHONY: help setup setup-run setup-train demo test test-fast test-latest check lint lock pages soak \
	test-lower-bounds test-matrix colcon clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/.ready-dev ## everything for developing and testing, in .venv
setup-run: $(VENV)/.ready-run ## only what runs: ROS 2 from PyPI, OpenVINO, vision_msgs
setup-train: $(VENV)/.ready-train ## what trains and exports models, without ROS

demo: setup-run ## a rendered drive through the node, judged; BAG=path TOPIC=name for your own
	$(BIN)/cone-perception demo $(if $(BAG),--bag '$(BAG)') $(if $(TOPIC),--topic '$(TOPIC)')

test: setup ## all tests
	$(BIN)/python -m pytest $(ARGS)

test-fast: setup ## what to run between two edits: under a minute
	$(BIN)/python -m pytest -m 'unit and not long' -n 2 -q $(ARGS)

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## style, types and tests

test-matrix: ## the tests on every supported Python; each must be on PATH
	$(MAKE) test PYTHON=python3.10 ROS_DISTRO=kilted
	$(MAKE) test PYTHON=python3.11 ROS_DISTRO=kilted
	$(MAKE) test PYTHON=python3.12 ROS_DISTRO=jazzy

test-lower-bounds: $(VENV)-lower/.ready ## the tests with the oldest releases that setup.cfg allows
	$(VENV)-lower/bin/python -m pytest $(ARGS)

test-latest: ## all tests with the newest releases that setup.cfg allows, in an environment of its own
	$(MAKE) test UNLOCKED=1 VENV=$(VENV)-latest

lock: setup ## renew the locks: the newest versions that fit together, with their hashes
	mkdir -p build && printf '%s\n' 'setuptools<80' $(TORCH) > build/together.txt  # colcon's setuptools
	for each in $(LOCKED); do for what in run train dev; do \
		case $$what in run) extras='$(EXTRAS_run)';; train) extras='$(EXTRAS_train)';; *) extras='$(EXTRAS_dev)';; esac; \
		ros=-$${each#*-}; [ $$what != train ] || ros=; \
		$(BIN)/uv pip compile setup.cfg locks/build.in -q --no-header --no-annotate \
		$$(printf -- ' --extra %s' $$(echo $$extras $${ros:+ros$$ros} | tr , ' ')) \
		--constraint build/together.txt --python-version $${each%-*} --generate-hashes \
		--python-platform x86_64-manylinux_2_28 | awk '/^[a-z]/ { skip = \
			/^(torch|torchvision|triton|cuda-toolkit|nvidia-)/ && !/^nvidia-(cuda-nvrtc|ml-py)==/ } !skip' \
		> locks/$$what-$${each%-*}$$ros.txt || exit 1; done; done
	for distro in kilted jazzy; do $(BIN)/uv pip compile locks/messages-$$distro.in -q \
		--no-header --no-annotate --universal --python-version 3.10 --generate-hashes --upgrade \
		-o cone_perception/interfaces/build-$$distro.txt || exit 1; done

pages: setup ## one of every page, in build/pages, to look at
	$(BIN)/python benchmarks/pages.py --out build/pages

soak: setup ## ten minutes through the node: memory must not grow; MINUTES=60 for more
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) --out build/soak

colcon: setup ## both ROS packages as on the car, in build/colcon
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/colcon --log-base build/colcon/log build --symlink-install \
		--build-base build/colcon/build --install-base build/colcon/install

clean: ## removes the virtual environments; the built messages stay in ~/.cache/cone_perception
	rm -rf .venv .venv-* build *.egg-info

$(VENV)/.created:
	$(PYTHON) -m cone_perception.interfaces.build --check
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.ready-run: $(VENV)/.created $(PACKAGING)
	$(call install,run)
	$(BIN)/python -m cone_perception.interfaces.build
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-run
	$(call install,dev,$(WITH_TORCH))
	touch $@

$(VENV)/.ready-train: $(VENV)/.created $(PACKAGING)
	$(call install,train,$(WITH_TORCH))
	touch $@

$(VENV)-lower/.ready: $(PACKAGING) .ci/lower_bounds.py
	$(PYTHON) -m cone_perception.interfaces.build --check
	$(PYTHON) -m venv $(VENV)-lower
	$(PYTHON) .ci/lower_bounds.py > $(VENV)-lower/constraints.txt
	$(VENV)-lower/bin/python -m pip install --disable-pip-version-check \
		-c $(VENV)-lower/constraints.txt -e '.[ros-$(ROS_DISTRO),$(LOWER_EXTRAS)]'
	$(VENV)-lower/bin/python -m cone_perception.interfaces.build
	touch $@

# Works in any shell, whether ROS from apt is sourced or not: everything goes into a virtual environment.
#   make demo | test | check | ... [PYTHON=python3.12] [ROS_DISTRO=jazzy]
PYTHON = python3
ROS_DISTRO = kilted
BAG =
TOPIC =
LOWER_EXTRAS = cpu,data,dev,replay
# PyTorch as tested. From PyPI it brings CUDA, several GB; where there is no NVIDIA card, spare them with
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
WITH_TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
# Whatever an editable install copies or builds: a change of it means installing again.
PACKAGING := setup.py setup.cfg pyproject.toml $(wildcard resource/*.sh resource/lib/*/* launch/*.py \
	config/* cone_perception/interfaces/vision_msgs/*.* cone_perception/interfaces/vision_msgs/msg/*)

unexport PYTHONPATH AMENT_PREFIX_PATH LD_LIBRARY_PATH VIRTUAL_ENV PYTHONHOME

MINUTES = 10

.PHONY: help setup setup-run setup-train demo test check lint soak test-lower-bounds test-matrix colcon clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(VENV)/.ready-dev ## everything for developing and testing, in .venv
setup-run: $(VENV)/.ready-run ## only what runs: ROS 2 from PyPI, OpenVINO, vision_msgs
setup-train: $(VENV)/.ready-train ## what trains and exports models, without ROS

demo: setup-run ## a simulated drive through the node, judged; BAG=path TOPIC=name for your own
	$(BIN)/cone-perception demo $(if $(BAG),--bag '$(BAG)') $(if $(TOPIC),--topic '$(TOPIC)')

test: setup ## all tests
	$(BIN)/python -m pytest $(ARGS)

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
	$(PIP) -e '.[ros-$(ROS_DISTRO),cpu,replay]'
	$(BIN)/python -m cone_perception.interfaces.build
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-run
	$(PIP) $(WITH_TORCH) -e '.[ros-$(ROS_DISTRO),cpu,data,dev,ray,replay,train]'
	touch $@

$(VENV)/.ready-train: $(VENV)/.created $(PACKAGING)
	$(PIP) $(WITH_TORCH) -e '.[cpu,data,train]'
	touch $@

$(VENV)-lower/.ready: $(PACKAGING) .ci/lower_bounds.py
	$(PYTHON) -m cone_perception.interfaces.build --check
	$(PYTHON) -m venv $(VENV)-lower
	$(PYTHON) .ci/lower_bounds.py > $(VENV)-lower/constraints.txt
	$(VENV)-lower/bin/python -m pip install --disable-pip-version-check \
		-c $(VENV)-lower/constraints.txt -e '.[ros-$(ROS_DISTRO),$(LOWER_EXTRAS)]'
	$(VENV)-lower/bin/python -m cone_perception.interfaces.build
	touch $@

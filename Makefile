# Everything a fresh machine with Python 3.11 needs; a second `make setup` with an unchanged lock takes about a second.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-cluster setup check docs bench starter-model fmt lock clean

demo: setup
	$(BIN)/corrfractal demo

# In two processes; tests/conftest.py divides the files between them.
test: setup
	$(BIN)/pytest -n 2

# Three hosts in network namespaces, cut and killed: needs root, installs iproute2 where it is missing.
test-cluster: setup
	tests/hosts/enter.sh $(BIN)/pytest -s tests/hosts

# PyTorch first and by version: a machine may provide its own build of it, whose hash no index knows. All other
# packages are checked against the hashes of the lock. The last line adds what such a build asks for, if anything.
setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --no-deps $$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock)
	$(PIP_INSTALL) --no-deps --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-build-isolation -e .
	touch $(STAMP)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.check_recipes
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/shellcheck --severity=warning .ci/run scripts/*.sh cluster/deploy/*/*.sh cluster/deploy/slurm/run.sbatch tests/hosts/*.sh

# The documentation as a site, site/index.html. A dead link or a page that no menu lists is an error. mkdocs reports the
# packages on which it is built; that notice is switched off.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Real sequences in the layout of DAVIS-2017, for the benchmark of the labels.
DAVIS ?= ../shared/data/davis2017
# Masks for them, SEQUENCE/00000.png, such as a published method's, for the benchmark of J and F.
MASKS ?= ../shared/data/davis2017_reference/osvos

bench: setup
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/propagation.py --data $(DAVIS)
	$(BIN)/python benchmarks/labels.py $(DAVIS)
	$(BIN)/python benchmarks/jf.py $(DAVIS) $(MASKS)
	$(BIN)/python benchmarks/scale.py --short $(dir $(TRAIN))
	$(BIN)/python benchmarks/results.py

# Train the model that comes with the program anew (docs/reference/starter-model.md): a quarter of an hour; resumes.
TRAIN ?= ../shared/data/train_videos

starter-model: setup
	mkdir -p runs/starter
	ln -sfn $(abspath $(TRAIN)) runs/starter/videos
	cp scripts/starter.toml runs/starter
	$(BIN)/corrfractal run runs/starter/starter.toml
	cp runs/starter/training/model.safetensors inference/starter.safetensors

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Exact versions and hashes of what is installed in .venv, after packages were upgraded there.
lock: setup
	scripts/lock.sh

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache

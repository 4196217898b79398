# The two commands of the book are `make book` and `make test`. Each sets up all that it needs.

VENV   ?= .venv
PYTHON ?=
SIZE   ?= book
export PYTHON

RUN    := $(VENV)/bin/python
# The stamp carries the lock's checksum: a new lock, or a killed installation, installs again.
STAMP  := $(VENV)/.installed-$(shell cksum < requirements.txt | tr ' ' '-')
COLAB  := .venv-colab
COLAB_LOCK  := tests/colab/requirements.txt
LEGACY := .venv-legacy
LEGACY_LOCK := tests/bench/requirements.txt
LEGACY_STAMP := $(LEGACY)/.installed-$(shell cksum < $(LEGACY_LOCK) | tr ' ' '-')
TORCH  := .venv-torch
TORCH_LOCK := tests/bench/torch-requirements.txt
TORCH_STAMP := $(TORCH)/.installed-$(shell cksum < $(TORCH_LOCK) | tr ' ' '-')
QUEUE  := .venv-queue
QUEUE_LOCK  := tests/queue/requirements.txt
QUEUE_STAMP := $(QUEUE)/.installed-$(shell cksum < $(QUEUE_LOCK) | tr ' ' '-')
COLAB_STAMP := $(COLAB)/.installed-$(shell cksum < $(COLAB_LOCK) | tr ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help environment book quick test bench gpu-check notebooks figure lock colab queue clean distclean

help: ## show this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo "make book CHAPTER=name builds one chapter; make book SIZE=quick uses fewer images."

environment: $(STAMP) ## install what the other targets need (they call this)

book: $(STAMP) ## run the chapters, make the pages, name the one to open
	@$(RUN) book/_tools/build.py --size $(SIZE) $(if $(CHAPTER),--chapter $(CHAPTER))

quick: $(STAMP) ## a first look in a few minutes: the book on fewer images
	@$(RUN) book/_tools/build.py --size quick $(if $(CHAPTER),--chapter $(CHAPTER))

test: $(STAMP) ## everything that must hold: style, notebooks, units, chapters, site
	@$(RUN) tests/run.py

bench: $(STAMP) $(LEGACY_STAMP) $(TORCH_STAMP) ## ratios of our routines to their alternatives, side by side
	@$(RUN) tests/bench/run.py $(ONLY)

gpu-check: $(STAMP) ## what this device makes of its peak, in a few minutes (needs a GPU)
	@$(RUN) -m ntklab.gpu_check $(if $(OUT),--out $(OUT))

notebooks: $(STAMP) ## write the notebooks beside the chapters anew
	@$(RUN) book/_tools/notebooks.py --fix

figure: $(STAMP) ## draw the README's figure from the ledger
	@$(RUN) book/_tools/readme_figure.py

lock: ## resolve the lock files anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv." >&2; exit 1; }
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --upgrade \
	  pyproject.toml -o requirements.txt
	uv pip compile --universal --python-version 3.13 --generate-hashes --upgrade \
	  tests/colab/requirements.in -o $(COLAB_LOCK)
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
	  tests/queue/requirements.in -o $(QUEUE_LOCK)
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
	  tests/bench/requirements.in -o $(LEGACY_LOCK)

colab: $(COLAB_STAMP) ## run the notebooks as Colab would, with its versions (needs Python 3.13)
	@PYTHONPATH=book/_tools $(COLAB)/bin/python tests/colab/check.py

queue: $(QUEUE_STAMP) ## run, kill, pack and resume every experiment with the five packages alone
	@PYTHONPATH=tests/unit $(QUEUE)/bin/python tests/queue/check.py $(ONLY)

clean: ## remove what was built; keep the environment
	rm -rf _build .pytest_cache .ruff_cache dist
	find ntklab book tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(COLAB) $(LEGACY) $(TORCH) $(QUEUE)

$(STAMP):
	@sh book/_tools/environment.sh $(VENV) requirements.txt $@

$(QUEUE_STAMP):
	@sh book/_tools/environment.sh $(QUEUE) $(QUEUE_LOCK) $@

$(COLAB_STAMP):
	@sh book/_tools/environment.sh $(COLAB) $(COLAB_LOCK) $@ 3.13

$(LEGACY_STAMP):
	@sh book/_tools/environment.sh $(LEGACY) $(LEGACY_LOCK) $@ "3.12 3.11"

$(TORCH_STAMP):
	@sh book/_tools/environment.sh $(TORCH) $(TORCH_LOCK) $@ "3.11 3.12 3.13"

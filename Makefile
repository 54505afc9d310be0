# Each target works in a fresh clone: it makes its own virtual environment in .venv and builds the op library.
# Needs Python 3.11, make and a C++ compiler (g++ or clang++); everything else comes from PyPI.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BUILD ?= build/tests
LIBRARY_BUILD := build/cmake-tf-2.21
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := $(shell find tf_blocksparse/custom_ops/cc cmake -type f) setup.py pyproject.toml CMakeLists.txt

.PHONY: demo test test-all cc-test cc-sanitize cc-test-aarch64 fuzz test-c-api lint docs bench gpu-check clean

demo: $(INSTALLED)
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m models.word_lm

test: $(INSTALLED) cc-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile --durations=10

# The whole of the tables of which `make test` takes a part.
test-all: $(INSTALLED) cc-test
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "" --durations=10

# In the directory where setup.py has built the op library: what is tested is what is shipped.
cc-test: $(INSTALLED)
	$(BIN)/cmake -S . -B $(LIBRARY_BUILD) -DTF_BLOCKSPARSE_BUILD_TESTS=ON
	$(BIN)/cmake --build $(LIBRARY_BUILD)
	$(BIN)/ctest --test-dir $(LIBRARY_BUILD) --output-on-failure --parallel 2

# The C++ tests again: with AddressSanitizer and UndefinedBehaviorSanitizer, then with ThreadSanitizer.
cc-sanitize: cc-sanitize-address cc-sanitize-thread

cc-sanitize-%: $(INSTALLED)
	$(BIN)/cmake -S . -B $(BUILD)-$* -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    -DTF_BLOCKSPARSE_OPS=OFF -DTF_BLOCKSPARSE_BUILD_TESTS=ON -DTF_BLOCKSPARSE_SANITIZE=$*
	$(BIN)/cmake --build $(BUILD)-$*
	$(BIN)/ctest --test-dir $(BUILD)-$* --output-on-failure --parallel 2

# Hostile input in long runs: of matrices and of all ops under AddressSanitizer, of SavedModel files in processes of
# their own. FUZZ_CALLS=1000 FUZZ_FILES=100 make them short, FUZZ_SEED= another number makes them others.
FUZZ_CALLS ?= 1000000
FUZZ_FILES ?= 5000
FUZZ_SEED ?= 1
fuzz: $(INSTALLED)
	$(BIN)/cmake -S . -B $(BUILD)-fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    -DTF_BLOCKSPARSE_BUILD_TESTS=ON -DTF_BLOCKSPARSE_SANITIZE=address
	$(BIN)/cmake --build $(BUILD)-fuzz --target fuzz_test op_fuzz_test
	$(BUILD)-fuzz/fuzz_test $(FUZZ_CALLS) $(FUZZ_SEED)
	TF_CPP_MIN_LOG_LEVEL=3 $(BUILD)-fuzz/op_fuzz_test $(FUZZ_CALLS) $(FUZZ_SEED)
	$(BIN)/python tests/fuzz/fuzz_saved_models.py $(FUZZ_FILES) --seed $(FUZZ_SEED)

# One binary through TensorFlow's C API, in environments of their own with the oldest and the newest TensorFlow it is for.
C_API_VERSIONS ?= 2.16.2 2.21.0
test-c-api: $(INSTALLED)
	$(BIN)/cmake -S . -B $(LIBRARY_BUILD) -DTF_BLOCKSPARSE_C_API=ON
	$(BIN)/cmake --build $(LIBRARY_BUILD) --target block_sparse_ops_c_api
	$(BIN)/python tests/c_api/versions.py $(LIBRARY_BUILD)/_block_sparse_ops.c_api.so build/tf $(C_API_VERSIONS)

# The C++ tests for 64-bit Arm, where the generic kernels are NEON code, in an emulator: every 15th of the cases.
cc-test-aarch64: $(INSTALLED)
	@command -v aarch64-linux-gnu-g++ qemu-aarch64-static > /dev/null || \
	    { echo "This needs a cross compiler and an emulator: sudo apt-get install g++-aarch64-linux-gnu qemu-user-static"; exit 1; }
	$(BIN)/cmake -S . -B $(BUILD)-aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    -DTF_BLOCKSPARSE_OPS=OFF -DTF_BLOCKSPARSE_BUILD_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
	    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
	    -DCMAKE_CROSSCOMPILING_EMULATOR=$$(command -v qemu-aarch64-static)
	$(BIN)/cmake --build $(BUILD)-aarch64
	TF_BLOCKSPARSE_TEST_EVERY=15 $(BIN)/ctest --test-dir $(BUILD)-aarch64 --output-on-failure --parallel 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The reference of all public functions and classes, from their docstrings. The guides are in docs/.
docs: $(INSTALLED)
	$(BIN)/python -m pdoc --docformat google --no-show-source --output-directory build/docs \
	    tf_blocksparse tf_blocksparse.custom_ops

bench: $(INSTALLED)
	$(BIN)/python benchmarks/matmul.py --gradients \
	    --json build/bench/matmul.json --markdown build/bench/matmul.md --plot build/bench/matmul.png

# Tests and a benchmark on a GPU, and a report to send back. Fails where there is no GPU.
gpu-check: $(INSTALLED)
	$(BIN)/python benchmarks/gpu_check.py --find
	$(BIN)/python -m pip install -q --disable-pip-version-check "tensorflow[and-cuda]==2.21.*"
	$(BIN)/python benchmarks/gpu_check.py

# The build tools and TensorFlow, whose headers the op library is compiled against, are installed first, so that
# the build needs no second copy of TensorFlow in an isolated environment.
$(INSTALLED): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, but $(PYTHON) is older. Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) setup.py check_compiler
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "setuptools>=77" wheel cmake ninja "tensorflow==2.21.*" \
	    "nvidia-cuda-nvrtc-cu12==12.9.*; sys_platform == 'linux'"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[demo,test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info tf_blocksparse/custom_ops/*.so

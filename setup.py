"""Builds the library of TensorFlow ops through CMake, and the wheel around it.

All metadata is in ``pyproject.toml``. The wheel is tagged ``py3-none-<platform>``: the library is
loaded by TensorFlow, not by Python, so it does not depend on the version of Python, only on that of
TensorFlow, which its name carries.
"""

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.resolve()
PACKAGE = "tf_blocksparse.custom_ops"
SUPPORTED_TF = "2.21"


def fail(message):
    """Stops the build with a message that is not buried in a traceback."""
    sys.exit(f"\nerror: {message}\n")


def find_compiler():
    """The C++ compiler, as CMake will look for it; checked first, since all else takes minutes."""
    given = os.environ.get("CXX")
    names = [shlex.split(given)[0]] if given and given.strip() else ["c++", "g++", "clang++"]
    for name in names:
        if shutil.which(name):
            return
    if given:
        fail(
            f"the environment variable CXX is {given!r}, which was not found. Set CXX to a C++17 compiler, or unset it."
        )
    fail(
        "no C++ compiler found (looked for c++, g++ and clang++); the block-sparse ops are built "
        "from source.\nInstall one, e.g. `sudo apt-get install g++` or `sudo dnf install gcc-c++`, "
        "or set CXX to its path."
    )


# Before setuptools is imported: `python setup.py check_compiler` has to work in a bare Python.
if sys.argv[1:] == ["check_compiler"]:
    find_compiler()
    sys.exit()

from setuptools import Extension, setup  # noqa: E402
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402


def find_tensorflow():
    """Directory and minor version of the installed TensorFlow, without importing it: seconds."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        fail(
            "TensorFlow's headers are needed to build the ops: run "
            f"`pip install 'tensorflow=={SUPPORTED_TF}.*'` first, or build without "
            "`--no-build-isolation`, which installs it for the build."
        )
    for distribution in importlib.metadata.packages_distributions().get("tensorflow", []):
        version = importlib.metadata.version(distribution)
        return Path(spec.origin).parent, ".".join(version.split(".")[:2])
    fail(f"no version is recorded for the TensorFlow in {spec.origin}: install it with pip.")


def find_tool(name):
    """`name` as its PyPI package installed it, beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


class CMakeBuild(build_ext):
    """Runs CMake; puts the library into the package (`pip install -e .`) or into the wheel."""

    def run(self):
        find_compiler()
        cmake = find_tool("cmake")
        if cmake is None:
            fail("CMake was not found: run `pip install cmake ninja` first.")
        tensorflow, version = find_tensorflow()
        if version != SUPPORTED_TF:
            fail(
                f"this version of tf_blocksparse builds against TensorFlow {SUPPORTED_TF}, but "
                f"{version} is installed in {tensorflow}: run "
                f"`pip install 'tensorflow=={SUPPORTED_TF}.*'`."
            )
        if self.editable_mode or self.inplace:
            target = ROOT.joinpath(*PACKAGE.split("."))
        else:
            target = Path(self.build_lib).resolve().joinpath(*PACKAGE.split("."))
        build = self.build_directory(version)
        target.mkdir(parents=True, exist_ok=True)
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release",
            f"-DTF_DIR={tensorflow}", f"-DTF_VERSION={version}",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ]  # fmt: skip
        ninja = find_tool("ninja")
        if ninja and not (build / "Makefile").exists():
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        self.call(configure)
        self.call([cmake, "--build", str(build), "--target", "block_sparse_ops", "--parallel", jobs])
        library = build / f"_block_sparse_ops.tf-{version}.so"
        for old in target.glob("_block_sparse_ops.*.so"):
            old.unlink()
        # A new file, never written in place: a process that has the old one loaded keeps it.
        shutil.copyfile(library, target / library.name)

    def build_directory(self, version):
        """One that stays, so that only what changed is compiled again; setuptools' do not."""
        build = ROOT / "build" / f"cmake-tf-{version}"
        cache = build / "CMakeCache.txt"
        if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text():
            shutil.rmtree(build)  # the source directory was moved or copied: CMake would refuse
        build.mkdir(parents=True, exist_ok=True)
        return build

    def call(self, command):
        """Runs a command; its own output, compile errors included, is what the user sees."""
        print("+", shlex.join(command), flush=True)
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        print(result.stdout, flush=True)
        if result.returncode != 0:
            # Ninja stops soon after the first error; the last lines are the ones that tell.
            lines = result.stdout.strip().splitlines()
            fail(f"building the block-sparse ops failed: {shlex.join(command)}\n\n" + "\n".join(lines[-60:]))

    def get_outputs(self):
        """The built file, for the record of installed files."""
        directory = Path(self.build_lib).joinpath(*PACKAGE.split("."))
        return [str(path) for path in directory.glob("_block_sparse_ops.*.so")]

    def get_output_mapping(self):
        """Nothing to link back to the sources: an editable install has the library in place."""
        return {}


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self):
        """Replaces the tags of Python and its ABI."""
        return "py3", "none", super().get_tag()[2]


setup(
    # Has no sources here: it makes setuptools call build_ext and mark the wheel as not pure Python.
    ext_modules=[Extension(f"{PACKAGE}._block_sparse_ops", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)

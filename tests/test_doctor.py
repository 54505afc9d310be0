"""`tf-blocksparse doctor`: finds each thing that can be wrong, and says what to do."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT
from tf_blocksparse import custom_ops, self_test
from tf_blocksparse.custom_ops.library import instruction_set
from tf_blocksparse_cli import doctor, main


def run(*arguments, root=ROOT, module="tf_blocksparse_cli", **environment):
    """`tf-blocksparse` in a fresh process with `root` in front of the installed packages."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )


def findings(**options):
    result = run("doctor", "--json", **options)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, {f["what"]: f for f in json.loads(result.stdout)}


def test_a_sound_installation_has_nothing_to_mend():
    code, found = findings(module="tf_blocksparse", TF_BLOCKSPARSE_MAX_ISA="")
    assert {name: f for name, f in found.items() if f["status"] == "problem"} == {}
    assert code == 0
    assert found["op library"]["found"].startswith(custom_ops.library_path())
    assert found["instruction set"]["found"] == ", ".join(reversed(instruction_set()))
    assert "ops are right" in found["self-test"]["found"]


def test_a_capped_instruction_set_is_a_warning_and_is_obeyed():
    code, found = findings(TF_BLOCKSPARSE_MAX_ISA="generic")
    assert code == 0
    assert found["TF_BLOCKSPARSE_MAX_ISA"]["status"] == "warning"
    assert found["instruction set"]["found"] == "generic"
    assert found["self-test"]["status"] == "ok"


def test_an_unknown_instruction_set():
    code, found = findings(TF_BLOCKSPARSE_MAX_ISA="sse9")
    assert code == 1
    assert found["TF_BLOCKSPARSE_MAX_ISA"]["status"] == "problem"
    assert "('generic', 'avx2', 'avx512')" in found["TF_BLOCKSPARSE_MAX_ISA"]["advice"]
    assert found["instruction set"]["found"] == "none"
    assert found["self-test"]["status"] == "problem"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The package's Python files, in a directory of their own."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("tf_blocksparse", "tf_blocksparse_cli"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "cc"))
    return root


@pytest.mark.parametrize(
    "name, content, found, advice",
    [
        (None, None, "has not been built", "pip install .*C\\+\\+17 compiler"),
        ("_block_sparse_ops.tf-2.19.so", b"", "were built for TensorFlow 2.19", "tensorflow==2.21"),
        ("_block_sparse_ops.tf-2.21.so", b"no library", "file too short|invalid ELF header", "--force-reinstall"),
    ],
)
def test_the_library_is_missing_for_another_tensorflow_or_broken(name, content, found, advice, copied):
    directory = copied / "tf_blocksparse" / "custom_ops"
    if name:
        (directory / name).write_bytes(content)
    code, all_found = findings(root=copied)
    if name:
        (directory / name).unlink()
    assert code == 1
    library = all_found["op library"]
    assert library["status"] == "problem"
    assert re.search(found, library["found"]), library
    assert re.search(advice, library["advice"]), library
    assert "self-test" not in all_found


def test_versions(monkeypatch):
    versions = {"tensorflow": "2.19.0", "keras": "3.15.2"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    wrong = doctor._package("tensorflow", "2.21")
    assert (wrong.status, wrong.found) == ("problem", "2.19.0")
    assert "pip install 'tensorflow==2.21.*'" in wrong.advice
    assert doctor._package("keras", "3.15").status == "ok"

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    assert doctor._package("keras", "3.15").found == "not installed"
    assert "not installed" in doctor._serving_api().found


def test_another_keras_backend(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert doctor._backend().status == "problem"
    assert "KERAS_BACKEND" in doctor._backend().found
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert doctor._backend().status == "ok"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert doctor._backend().status == "problem"
    assert str(tmp_path) in doctor._backend().found


def test_few_threads_and_slow_kernels():
    assert doctor._threads(0).status == "ok"
    cores = int(doctor._threads(0).found.split(",")[0])
    assert doctor._threads(cores).status == "ok"
    if cores > 1:
        assert doctor._threads(1).status == "warning"
        assert "TF_NUM_INTRAOP_THREADS" in doctor._threads(1).advice
    assert doctor._instruction_set(("generic",), "x86_64").status == "warning"
    assert doctor._instruction_set(("generic",), "aarch64").status == "ok"
    assert doctor._instruction_set(("avx512_vnni", "avx512"), "x86_64").found == "avx512, avx512_vnni"


def test_a_probe_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    by_name = {f.what: f for f in doctor.diagnose()}
    assert "ended by signal 4" in by_name["op library"].found
    assert "TF_BLOCKSPARSE_MAX_ISA=generic" in by_name["op library"].advice


@pytest.mark.parametrize("spoilt", ["block_sparse_matmul", "block_sparse_gather", "block_sparse_matmul_low_precision"])
def test_wrong_results_fail_the_self_test(spoilt, monkeypatch):
    assert all(test.passed for test in self_test.self_test())
    right = getattr(custom_ops, spoilt)
    monkeypatch.setattr(custom_ops, spoilt, lambda *a, **k: right(*a, **k) * 1.001)
    tests = self_test.self_test()
    assert not all(test.passed for test in tests)
    finding = doctor._self_test([{**vars(t), "passed": t.passed} for t in tests])
    assert finding.status == "problem" and "error 0.001, allowed" in finding.found


def test_an_op_that_fails_or_gives_nan_fails_the_self_test(monkeypatch):
    monkeypatch.setattr(custom_ops, "block_sparse_gather", lambda *a: 1 / 0 if False else float("nan"))
    (failed,) = [test for test in self_test.self_test() if not test.passed]
    assert failed.op == "look-up of rows" and failed.error == float("inf")


@pytest.mark.parametrize("status, code", [("ok", 0), ("warning", 0), ("problem", 1)])
def test_table_and_exit_status(status, code, monkeypatch, capsys):
    monkeypatch.setattr(main, "diagnose", lambda: [doctor.Finding("the thing", status, "pkg[extra]", "do this")])
    assert main.main(["doctor"]) == code
    printed = capsys.readouterr().out
    assert "the thing" in printed and "pkg[extra]" in printed and "do this" in printed


def test_the_command_is_installed_under_its_name():
    assert 'tf-blocksparse = "tf_blocksparse_cli.main:main"' in pathlib.Path(ROOT / "pyproject.toml").read_text()
    result = run("--help")
    assert result.returncode == 0 and "doctor" in result.stdout

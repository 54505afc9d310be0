"""The word language model trained in two processes, and what is said when one of them dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from helpers import ROOT
from models import word_lm, workers

SMALL = ["--preset", "cut", "--units", "16", "--batch-size", "8", "--learning-rate", "0.01", "--block-shape", "4"]
SMALL += ["--min-sparsity", "0", "--group-lasso", "1e-4"]


@pytest.fixture
def data(tmp_path):
    """A text in which each word says what follows."""
    rng = np.random.default_rng(0)
    directory = tmp_path / "text"
    directory.mkdir()
    for split, lines in (("train", 120), ("valid", 60)):
        rows = [" ".join(f"w{(s + i) % 20}" for i in range(8)) for s in rng.integers(0, 20, lines)]
        (directory / f"tiny.{split}.txt").write_text("\n".join(rows) + "\n")
    return directory


def started(arguments, **settings):
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        [sys.executable, "-m", "models.word_lm", *arguments], env=environment, cwd=ROOT, text=True, **settings
    )


def check_same_models(one, other, kinds=word_lm.KINDS):
    """Weights are the same within rounding, zeros are the same."""
    for kind in kinds:
        models = [keras.saving.load_model(out / f"{kind}.keras", compile=False) for out in (one, other)]
        assert len(models[0].weights) == 9
        for path, a, b in zip([w.path for w in models[0].weights], *(m.get_weights() for m in models), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4, err_msg=path)
            np.testing.assert_array_equal(a == 0, b == 0, err_msg=path)
        zeros = np.mean([np.mean(w == 0) for w in models[0].get_weights() if w.ndim == 2])
        assert zeros == pytest.approx(0.8 if kind == "pruned" else 0.0, abs=0.02)


def test_two_processes_train_as_one_does(data, tmp_path, monkeypatch):
    """The pruned model; a dense one that nobody trained is there."""
    monkeypatch.setattr(word_lm.Run, "compare", lambda *a: None)
    monkeypatch.chdir(ROOT)
    for out, count in (("one", "1"), ("two", "2")):
        options = word_lm.parse(["--data", str(data), *SMALL, "--workers", count, "--out", str(tmp_path / out)])
        run = word_lm.Run(options)
        run.new_model().save(run.file("dense"))
        run.execute()
    check_same_models(tmp_path / "one", tmp_path / "two", ["pruned"])
    logs = [np.genfromtxt(tmp_path / out / "pruned.csv", delimiter=",", names=True) for out in ("one", "two")]
    assert len(logs[0]) == 5
    for name in ("epoch", "learning_rate", "loss", "perplexity", "val_loss", "val_perplexity"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-3, err_msg=name)
    assert (tmp_path / "two" / "pruning.png").stat().st_size > 5000


@pytest.mark.exhaustive
def test_a_worker_that_was_killed(data, tmp_path, monkeypatch):
    """The others end, the command says so, and goes on; one that was never killed ends alike."""
    monkeypatch.setattr(word_lm.Run, "compare", lambda *a: None)
    monkeypatch.chdir(ROOT)
    arguments = ["--data", str(data), *SMALL, "--epochs", "40", "--workers", "2", "--out"]
    out = tmp_path / "halves"
    command = started([*arguments, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    found, log = [], out / "dense.csv"
    while len(found) < 2:
        found += re.findall(r"worker \d: process (\d+)", command.stdout.readline())
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        time.sleep(0.05)
    os.kill(int(found[1]), signal.SIGKILL)
    _, said = command.communicate(timeout=120)
    assert command.returncode == 1
    assert f"Worker 1 (process {found[1]}) was killed by signal 9" in said and "goes on after the last whole" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[0]), 0)
    done = len(log.read_text().splitlines())
    assert 3 <= done < 41
    word_lm.main([*arguments, str(out)])
    assert [int(line.split(",")[0]) for line in log.read_text().splitlines()[done:]][:2] == [done - 1, done]
    word_lm.main([*arguments[:-3], "--out", str(tmp_path / "one")])
    check_same_models(tmp_path / "one", out)


SLURM = {
    "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_STEP_TASKS_PER_NODE": "2,1",
}  # fmt: skip


@pytest.mark.parametrize("rank", [0, 2])
def test_what_slurm_says_of_a_process(rank, monkeypatch):
    for name, value in {**SLURM, "SLURM_PROCID": str(rank)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    resolver = workers.RESOLVERS["slurm"]()
    assert (resolver.task_type, resolver.task_id) == ("worker", rank)
    assert resolver.cluster_spec().as_dict() == {"worker": ["node07:8888", "node07:8889", "node08:8888"]}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ, "Slurm hands out the GPUs"


def test_a_process_that_is_no_worker(monkeypatch):
    cluster = {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match="expected this process to be a worker. It is 'ps'"):
        workers.Workers("tf_config")


def test_a_failing_worker_ends_the_others(tmp_path, capfd):
    code = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(600)
print("no such thing")
sys.exit(3)
"""
    begun = time.monotonic()
    with pytest.raises(workers.WorkerError, match=r"(?s)Worker 1 .* exit status 3.*goes on after.*no such thing"):
        workers.launch([sys.executable, "-c", code], 2, tmp_path / "logs")
    assert time.monotonic() - begun < 300
    pid = int(re.search(r"worker 0: process (\d+)", capfd.readouterr().out)[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

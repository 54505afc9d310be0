"""The code in the documentation runs: Python as it stands, and the command line in this process.

A block of another kind, or one that cannot run here, says why behind its language: "sh not run here: needs Docker".
"""

import re
import shlex

import pytest

from helpers import ROOT
from tf_blocksparse_cli.main import main

PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCES = re.compile(r"^```([^\n]*)\n(.*?)^```", re.S | re.M)
ELSEWHERE = ("python multi-worker",)  # in several processes: tests/pruning/test_distribution.py
REASON = re.compile(r"sh not run here: \w.*")

# The README's first model is as large as real ones, and trains for as long; here it is the same in small.
SMALLER = {
    "10_000": "40",
    "512": "16",
    "begin_step=1000, end_step=8000": "begin_step=0, end_step=4, frequency=1",
    "1024": "64",
    "block_shape=128": "block_shape=16",
    "gate_inputs=256": "gate_inputs=8",
}
README_NAMES = """
import numpy as np
rng = np.random.default_rng(0)
words, next_words = rng.integers(0, 40, (2, 16, 7))
x, y = rng.normal(size=(16, 64)).astype("float32"), rng.integers(0, 10, 16)
"""


def blocks_of(page):
    """`(language and what follows, code)` of the fenced blocks of a page."""
    return FENCES.findall(page.read_text())


def run(blocks, page, names, directory, monkeypatch):
    """Runs blocks one after another, in `directory`."""
    monkeypatch.chdir(directory)
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, str(page), "exec"), names)
        elif kind == "sh":
            for line in code.strip().splitlines():
                name, *arguments = shlex.split(line)
                assert name == "tf-blocksparse", f"{page}: {line!r} cannot be run: say why, '```sh not run here: ...'"
                assert main(arguments) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_run_one_after_another(page, tmp_path, monkeypatch):
    blocks = blocks_of(page)
    assert any(kind in ("python", "sh") for kind, _ in blocks)
    run(blocks, page, {}, tmp_path, monkeypatch)


def test_the_readme_runs_in_small(tmp_path, monkeypatch):
    page, names = ROOT / "README.md", {}
    exec(README_NAMES, names)
    blocks = blocks_of(page)
    for large, small in SMALLER.items():
        assert any(large in code for _, code in blocks), f"{large} is no more in the README"
        blocks = [(kind, code.replace(large, small)) for kind, code in blocks]
    assert [kind for kind, _ in blocks].count("python") >= 2
    run(blocks, page, names, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_block_runs_or_says_why_not(page):
    known = ("python", "sh", *ELSEWHERE)
    unknown = [kind for kind, _ in blocks_of(page) if kind not in known and not REASON.fullmatch(kind)]
    assert not unknown, f"{page.name}: {unknown}: name the language, or say '```sh not run here: why'"
    text = FENCES.sub("", page.read_text())
    indented = re.findall(r"(?:^|\n\n)    \S[^\n]*", text)
    assert not indented, f"{page.name}: fence code, so that it is run: {indented}"


def test_links_lead_to_files():
    for page in (ROOT / "README.md", *PAGES):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", FENCES.sub("", page.read_text())):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index]
    assert not missing


def test_every_command_is_described():
    page = (ROOT / "docs" / "command-line.md").read_text()
    for command in ("inspect", "prune", "convert", "export", "bench", "doctor"):
        assert f"| `{command}" in page and f"tf-blocksparse {command}" in page

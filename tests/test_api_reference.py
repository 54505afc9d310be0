"""`make docs`: the reference is built of the docstrings, and has every public name."""

import html
import inspect
import re
import subprocess
import sys

import pytest

import tf_blocksparse as bs
from helpers import ROOT


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The directory that the command of the Makefile writes."""
    directory = tmp_path_factory.mktemp("reference")
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    command = re.search(r"^docs: .*\n\t\$\(BIN\)/python (-m pdoc .*)", makefile, re.M).group(1)
    arguments = command.replace("build/docs", str(directory)).split()
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    return directory


def page_of(reference, name):
    """The text of the page that a public name is on; a module has one of its own."""
    value = getattr(bs, name)
    module = value.__name__ if inspect.ismodule(value) else "tf_blocksparse"
    return html.unescape((reference / (module.replace(".", "/") + ".html")).read_text())


@pytest.mark.parametrize("name", bs.__all__)
def test_every_public_name_is_in_it_with_its_docstring(name, reference):
    page = page_of(reference, name)
    assert inspect.ismodule(getattr(bs, name)) or f'id="{name}"' in page
    first = inspect.getdoc(getattr(bs, name)).splitlines()[0]
    text = re.sub(r"<[^>]*>", "", page)
    assert all(word in text for word in re.findall(r"[A-Za-z]{3,}", first))


def test_arguments_are_sections_and_all_ops_are_there(reference):
    page = page_of(reference, "prune_blocks")
    assert "Arguments:" in page and "Raises:" in page  # read as Google's style, not as plain text
    ops = page_of(reference, "ops")
    assert all(f'id="{name}"' in ops for name in bs.ops.__all__)

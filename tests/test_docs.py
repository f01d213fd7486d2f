"""The documents point at files, headings and scripts that exist, and name nothing of a machine."""

import re
import subprocess

import nbformat
import pytest
from helpers import COMPANIONS, NOTEBOOKS, ROOT

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "companions", "benchmarks", "benchmarks/results", "weights")
    for path in (ROOT / folder).glob("*.md")
)


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown page's headings get."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / name).parent / path if path else ROOT / name
        assert linked.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), f"{name}: {target}"


def text_of(name: str) -> str:
    """Return a page's text, or that of a notebook's Markdown cells."""
    if not name.endswith(".ipynb"):
        return (ROOT / name).read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(ROOT / name, 4).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("name", [*DOCUMENTS, *NOTEBOOKS, *COMPANIONS])
def test_named_files_exist(name):
    """Paths in code quotes that begin with a folder of the project."""
    text = text_of(name)
    for path in re.findall(r"`((?:heartbox|benchmarks|companions|docs|tests|weights)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{name}: {path}"
    for path in re.findall(r"python ((?:benchmarks|docs)/\w+\.py)", text):
        assert (ROOT / path).is_file(), f"{name}: {path}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_nothing_of_a_machine(name):
    assert not re.search(r"(^|[\s\"'`=(])/(root|work|home|tmp|Users)/", (ROOT / name).read_text(encoding="utf-8"))


def test_every_benchmark_is_listed():
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert f"`{script.name}`" in listed or ("companion_" in script.name and "`companion_*.py`" in listed), script


def test_no_picture_of_docs_is_unused():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    for picture in (ROOT / "docs" / "images").iterdir():
        assert any(f"images/{picture.name}" in text for text in texts), picture.name


def test_nothing_large_is_committed_twice():
    """The weights lie in the repository once; an installed package gets them from there."""
    run = subprocess.run(["git", "ls-files", "*.pt"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    assert run.stdout.split() == ["weights/heart-resnet18.pt"]

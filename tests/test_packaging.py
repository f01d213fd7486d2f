"""Dependencies are declared once, the commands people type are the commands that are tested, and the wheel is whole."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from helpers import ROOT
from packaging.requirements import Requirement

import heartbox
from heartbox.models.weights import released_weights

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(name: str) -> set[str]:
    """Return what a requirements file itself lists, without comments and without the files it includes."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return {str(Requirement(line)) for line in lines if line and not line.startswith("-r")}


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("requirements.txt", PROJECT["dependencies"] + EXTRAS["notebooks"]),
        ("companions/requirements.txt", EXTRAS["companions"]),
        ("requirements-dev.txt", EXTRAS["dev"]),
    ],
)
def test_requirements_files_say_what_the_project_declares(name, declared):
    assert requirements(name) == {str(Requirement(line)) for line in declared}


def test_each_requirement_says_what_it_is_for():
    for name in ("requirements.txt", "companions/requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "-r ")) or "  # " in line or " # " in line, f"{name}: {line}"


def test_ci_runs_the_test_command_of_the_readme():
    """Word for word: what a reader types is what is tested."""
    (command,) = re.findall(r"^(python -m pip install -r requirements-dev\.txt && .*)$", readme(), re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in command.split(" && "):
        assert re.search(rf"^{re.escape(part)}", script, re.MULTILINE), part


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_command_installs_all_it_needs_in_one_line():
    (line,) = re.findall(r"^python -m pip install -r requirements\.txt && .*$", readme(), re.MULTILINE)
    assert all(name in line for name in ("01-", "02-", "03-", "04-"))


def test_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", heartbox.__version__)
    assert f"## [{heartbox.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {heartbox.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_wheel_holds_code_and_weights_and_nothing_else(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT / "heartbox", project / "heartbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", project / "weights")
    for name in ("cardiac_dataset.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(project).as_posix() for path in (project / "heartbox").rglob("*") if path.is_file()}
    expected |= {f"heartbox/weights/{path.name}" for path in (project / "weights").iterdir()} | {"cardiac_dataset.py"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "heartbox/py.typed" in names
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "heartbox = heartbox.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_an_installed_package_finds_its_weights(tmp_path):
    """The wheel's layout unpacked elsewhere: the weights are found inside the package, from any folder."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "heartbox", site / "heartbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "weights", site / "heartbox" / "weights")
    code = "from heartbox.models.weights import released_weights; print(released_weights())"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == str(site / "heartbox" / "weights" / "heart-resnet18.pt"), run.stderr
    assert released_weights() == ROOT / "weights" / "heart-resnet18.pt"

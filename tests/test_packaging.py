"""Installed by pip from a source archive into an environment of its own, the command works without the checkout.

That `pip install .` does it too is seen in tests/test_readme.py.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from btw_backup import __version__
from tests.conftest import REPOSITORY

LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "build", "*.egg-info", ".*_cache", "tests")


def run(*command: str | Path, cwd: str | Path = "/") -> subprocess.CompletedProcess[str]:
    """Run a program that knows nothing of the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=clean)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh virtual environment with nothing but ourselves and what we require; one for
    all who run tests at once."""
    mine = tmp_path_factory.getbasetemp()
    top = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "installed"
    top.mkdir(exist_ok=True)
    with open(top / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (top / "complete").exists():
            install(top)
            (top / "complete").touch()
    return top / "venv/bin"


def install(top: Path) -> None:
    """Make the environment."""
    shutil.copytree(REPOSITORY, top / "source", ignore=LEFT_OUT)  # pip leaves its traces where it builds
    assert run("/usr/bin/python3", "-m", "venv", top / "venv").returncode == 0
    ended = run(top / "venv/bin/python", "setup.py", "-q", "sdist", cwd=top / "source")
    assert ended.returncode == 0, ended.stderr
    (archive,) = (top / "source/dist").iterdir()
    ended = run(top / "venv/bin/pip", "install", "--disable-pip-version-check", "-q", archive)
    assert ended.returncode == 0, ended.stderr
    shutil.rmtree(top / "source")


def test_installed_command_says_its_version(installed: Path) -> None:
    ended = run(installed / "btw-backup", "--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"btw-backup {__version__}\n", "")


def test_installed_command_backs_up_and_restores(installed: Path, tmp_path: Path, source: Path) -> None:
    """Every module came along: what is imported late, too."""
    command = (installed / "btw-backup", "--config-dir", tmp_path / "cfg")
    for arguments in (
        ("init", "--root", tmp_path / "root"),
        ("fs-init", "--type", "tar", source, "tree"),
        ("fs", source, "tree"),
        ("restore", "tree", tmp_path / "back"),
        ("list", "tree"),
    ):
        ended = run(*command, *arguments)
        assert (ended.returncode, ended.stderr) == (0, ""), arguments
    assert (tmp_path / "back/etc/hosts").read_text() == "127.0.0.1 localhost\n"


def test_installed_package_has_what_goes_into_a_store(installed: Path) -> None:
    (folder,) = installed.parent.glob("lib/python*/site-packages/btw_backup/store/rescue")
    assert {"README.txt", "RESTORE.py"} <= {path.name for path in folder.iterdir()}


def test_installed_environment_is_consistent(installed: Path) -> None:
    ended = run(installed / "pip", "--disable-pip-version-check", "check")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_bare_command_prints_its_usage(installed: Path) -> None:
    ended = run(installed / "btw-backup")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: btw-backup ")


def test_version_is_said_once() -> None:
    """setup.py cannot import the package, which may lack its requirements there."""
    assert f'version="{__version__}"' in (REPOSITORY / "setup.py").read_text()

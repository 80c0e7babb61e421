"""What explain predicts is what a backup does."""

import json
from pathlib import Path

from tests.conftest import Installation


def test_B20_prediction_is_the_result(btw: Installation, source: Path) -> None:
    folder = btw.tree(source, extra='EXCLUDE = [\n  "*.pyc",\n  "/etc/deep",\n]\n')
    (source / "x.pyc").touch()
    (source / "etc" / "tagged").mkdir()
    (source / "etc" / "tagged" / "NOBACKUP-TAG").touch()
    (source / "etc" / "tagged" / "inner").touch()
    btw("fs", source, "D")
    btw("restore", "D", btw.top / "out")
    for path in sorted(source.rglob("*")):
        [verdict] = json.loads(btw("explain", path, "--json").out)
        restored = btw.top / "out" / path.relative_to(source)
        kept = restored.is_symlink() or restored.exists()
        assert verdict["kept"] == kept, verdict
    [verdict] = json.loads(btw("explain", source / "x.pyc", "--json").out)
    assert (verdict["file"], verdict["line"]) == (
        str(folder / "config.py"),
        1 + (folder / "config.py").read_text().splitlines().index('  "*.pyc",'),
    )
    assert "*.pyc" in verdict["rule"]
    text = btw("explain", source / "etc" / "tagged" / "inner").out
    assert "left out" in text and "NOBACKUP-TAG" in text


def test_a_path_of_no_job(btw: Installation) -> None:
    assert "no job backs up" in btw("explain", "/nowhere", status=1).err

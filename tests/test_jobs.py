"""Working directories and databases' files, as old installations have them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from btw_backup.configuration import config, jobs
from btw_backup.configuration.config import Config
from btw_backup.errors import FatalUserError, ImproperlyConfigured
from tests.conftest import Installation

OLD = {
    "/a/b": "tZj__w",
    "/home/ldd/src/git-repos/btw-backup/test-data/src": "uqsE0Q",
}
"""Sources and hashes that the old script wrote."""


def general(btw: Installation) -> Config:
    return config.load(btw.config_dir / "config.py", config.GENERAL)


@pytest.mark.parametrize(("source", "hashed"), OLD.items())
def test_the_hash_is_the_old_one(source: str, hashed: str) -> None:
    assert jobs.hash_of(source) == hashed


def test_the_hash_leaves_out_leading_zero_bytes() -> None:
    short = [jobs.hash_of(f"/{n}") for n in range(3000)]
    assert {len(hashed) for hashed in short} == {4, 6}


def test_a_name_that_is_not_utf8_has_a_hash() -> None:
    assert jobs.hash_of(os.fsdecode(b"/\xff\n"))


def test_an_old_working_directory_is_found(btw: Installation) -> None:
    folder = btw.config_dir / "www.tZj__w"
    folder.mkdir(0o755)
    (folder / "src").symlink_to("/a/b")
    (folder / "config.py").write_text('TYPE="rdiff"\nMAX_INCREMENTAL_COUNT=10\nMAX_INCREMENTAL_SPAN="24h"\n')
    job = jobs.tree_job(general(btw), btw.config_dir, "/a/b")
    assert (job.name, job.source, job.keeper, job.stage) == ("www", "/a/b", "rdiff", folder / "backup")
    assert job.settings["MAX_INCREMENTAL_SPAN"] == 86400.0


def test_a_slash_at_the_end_means_nothing(btw: Installation) -> None:
    made = jobs.make_working_directory(btw.config_dir, "/a/b/", "www", 'TYPE="tar"\n')
    assert made.name == "www.tZj__w"
    assert jobs.working_directory(btw.config_dir, "/a/b/") == jobs.working_directory(btw.config_dir, "/a/b") == made
    assert jobs.tree_job(general(btw), btw.config_dir, "/a/b/").source == "/a/b"


def test_an_old_one_that_was_made_with_a_slash_is_found_with_it(btw: Installation) -> None:
    folder = btw.config_dir / f"www.{jobs.hash_of('/a/b/')}"
    folder.mkdir()
    (folder / "src").symlink_to("/a/b/")
    assert jobs.working_directory(btw.config_dir, "/a/b/") == folder


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", ".hidden", "a\nb", "\x1b[2J"])
def test_unusable_names_are_refused(btw: Installation, name: str) -> None:
    with pytest.raises(FatalUserError, match="a name cannot hold"):
        jobs.make_working_directory(btw.config_dir, "/a", name, "")


def test_what_a_killed_fs_init_left_is_in_nobodys_way(btw: Installation) -> None:
    left = btw.config_dir / ".tmp-1-www.tZj__w"
    left.mkdir()
    (left / "src").symlink_to("/a/b")
    assert jobs.tree_jobs(btw.config_dir) == []
    assert jobs.make_working_directory(btw.config_dir, "/a/b", "www", "") == btw.config_dir / "www.tZj__w"
    assert not left.exists()


def test_of_two_at_once_one_is_made(btw: Installation) -> None:
    def make(name: str) -> str:
        try:
            return str(jobs.make_working_directory(btw.config_dir, "/a/b", name, ""))
        except FatalUserError as error:
            return error.message

    with ThreadPoolExecutor(8) as threads:
        ended = sorted(threads.map(make, "abcdefgh"))
    assert ended[1:] == ["there is already a directory for this path"] * 7
    assert len(jobs.tree_jobs(btw.config_dir)) == 1


def test_duplicates_and_wrong_links_are_named(btw: Installation) -> None:
    for name in ("one", "two"):
        (btw.config_dir / f"{name}.tZj__w").mkdir()
        (btw.config_dir / f"{name}.tZj__w" / "src").symlink_to("/a/b")
    with pytest.raises(ImproperlyConfigured, match=r"duplicate working directories: .*one.tZj__w, .*two.tZj__w"):
        jobs.working_directory(btw.config_dir, "/a/b")
    (btw.config_dir / "one.tZj__w" / "src").unlink()
    (btw.config_dir / "two.tZj__w").rename(btw.config_dir / "two")
    with pytest.raises(ImproperlyConfigured, match=r"wrong path: .*one.tZj__w"):
        jobs.working_directory(btw.config_dir, "/a/b")


def test_no_working_directory(btw: Installation) -> None:
    with pytest.raises(FatalUserError, match=r"^no working directory for: /a/b$"):
        jobs.tree_job(general(btw), btw.config_dir, "/a/b")


def test_a_tree_takes_the_general_compression_unless_it_has_its_own(btw: Installation) -> None:
    btw.configure(COMPRESSION="xz", LOCK_WAIT="1s")
    made = jobs.make_working_directory(btw.config_dir, "/a", "a", 'TYPE="tar"\n')
    assert jobs.tree_job(general(btw), btw.config_dir, "/a").settings["COMPRESSION"] == "xz"
    (made / "config.py").write_text('TYPE="tar"\nCOMPRESSION="gzip"\n')
    assert jobs.tree_job(general(btw), btw.config_dir, "/a").settings["COMPRESSION"] == "gzip"


@pytest.mark.parametrize("place", ["shop.py", "db/shop.py"])
def test_a_databases_file_is_honoured_in_both_places(btw: Installation, place: str) -> None:
    (btw.config_dir / "db").mkdir()
    (btw.config_dir / place).write_text("MAX_INCREMENTAL_COUNT = 3\n")
    assert jobs.database_names(btw.config_dir) == ["shop"]
    assert jobs.database_job(btw.config_dir, "shop").settings["MAX_INCREMENTAL_COUNT"] == 3


def test_both_files_of_a_database_are_a_named_conflict(btw: Installation) -> None:
    (btw.config_dir / "db").mkdir()
    for place in ("global.py", "db/global.py"):
        (btw.config_dir / place).touch()
    with pytest.raises(ImproperlyConfigured, match=f"{btw.config_dir}/global.py and {btw.config_dir}/db/global.py"):
        jobs.database_job(btw.config_dir, jobs.GLOBALS)


@pytest.mark.parametrize("name", ["shop", "a/b", "..", "config", "ümlaut ", "-g"])
def test_a_database_needs_no_file(btw: Installation, name: str) -> None:
    job = jobs.database_job(btw.config_dir, name)
    assert (job.source, job.keeper, job.settings["MAX_INCREMENTAL_COUNT"]) == (name, "rdiff", 10)


def test_the_general_configuration_is_no_databases(btw: Installation) -> None:
    assert jobs.database_names(btw.config_dir) == []
    (btw.config_dir / "db").mkdir()
    (btw.config_dir / "db" / "config.py").write_text("MAX_INCREMENTAL_COUNT = 3\n")
    assert jobs.database_job(btw.config_dir, "config").settings["MAX_INCREMENTAL_COUNT"] == 3


def test_everything_that_is_wrong_is_found(btw: Installation, tmp_path: Path) -> None:
    btw.configure("LOCK_WAIT = 1\nROOTPATH = 1\n")
    for name in ("one", "two"):
        (btw.config_dir / f"{name}.AAAA").mkdir()
        (btw.config_dir / f"{name}.AAAA" / "config.py").write_text(
            "MAX_INCREMENTAL_COUNT = -1\n" if name == "one" else ""
        )
    (btw.config_dir / "two.AAAA" / "src").symlink_to("/a/b")
    (btw.config_dir / "db").mkdir()
    for place in ("shop.py", "db/shop.py"):
        (btw.config_dir / place).write_text("import nothing_like_that\n")
    found = {
        str(path.relative_to(btw.config_dir)): [p.message for p in ps] for path, ps in jobs.examined(btw.config_dir)
    }
    one, two = btw.config_dir / "one.AAAA", btw.config_dir / "two.AAAA"
    failed = "line 1: ModuleNotFoundError: No module named 'nothing_like_that'"
    assert found == {
        "config.py": [
            f"{btw.config_dir}/config.py line 2: LOCK_WAIT must be a duration, not 1",
            f"{btw.config_dir}/config.py line 3: there is no setting ROOTPATH",
        ],
        "one.AAAA/config.py": [
            f"{one}/config.py line 1: MAX_INCREMENTAL_COUNT must be a whole number, not -1",
            f"{one}/src is not a link to the tree",
        ],
        "two.AAAA/config.py": [
            f"you must specify TYPE in {two}/config.py",
            f"{two} is not found, because its name is not that of /a/b",
        ],
        "shop.py": [f"{btw.config_dir}/shop.py {failed}"],
        "db/shop.py": [
            f"{btw.config_dir}/db/shop.py {failed}",
            f"two configurations for one database: {btw.config_dir}/shop.py and {btw.config_dir}/db/shop.py",
        ],
    }

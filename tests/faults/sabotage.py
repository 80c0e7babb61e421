"""Breaks one promise after the other, each in a copy of the package, and sees whether the tests notice.

``python -m tests.faults.sabotage [NAME …]`` applies each patch of `PATCHES`, runs the tests that should fail, and ends
with 1 if any of them passes: that is a hole in the tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ORDER, KILLED, REPLAYED = (f"tests/faults/test_{name}.py" for name in ("order", "killed", "replayed"))


@dataclass(frozen=True)
class Patch:
    """In `file` of the package, `old` becomes `new`; of the tests in `tests` those that `which` chooses have to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    which: str


PATCHES = (
    Patch(
        "a file is published unsynced",
        "files.py",
        "            os.fsync(out.fileno())\n            publish",
        "            publish",
        ORDER,
        "rm or init or export",
    ),
    Patch(
        "a name is not synced",
        "files.py",
        "    os.rename(temporary, final)\n    sync_folder(final.parent)",
        "    os.rename(temporary, final)",
        ORDER,
        "tar and first",
    ),
    Patch(
        "a new folder is not synced",
        "files.py",
        "        return\n    sync_folder(path.parent)",
        "        return",
        ORDER,
        "first",
    ),
    Patch(
        "an archive is not synced",
        "flushing.py",
        "        yield out\n    os.fsync(out.fileno())\n    let_go",
        "        yield out\n    let_go",
        ORDER,
        "tar and third",
    ),
    Patch(
        "a chunk is not synced",
        "store/writer.py",
        "            if sync:",
        "            if False:",
        ORDER,
        "chunks and first",
    ),
    Patch(
        "the folders of chunks are not synced",
        "store/writer.py",
        "        for folder in (*folders, self.store.chunks):",
        "        for folder in ():",
        ORDER,
        "chunks and first",
    ),
    Patch(
        "a manifest is not synced",
        "keepers/chunks_run.py",
        "        os.fsync(out.fileno())\n",
        "",
        ORDER,
        "chunks and third",
    ),
    Patch(
        "the manifest of a stream is not synced",
        "keepers/chunks_stream.py",
        "        os.fsync(out.fileno())\n",
        "",
        ORDER,
        "command and chunks",
    ),
    Patch(
        "a repository is not synced",
        "keepers/rdiff_change.py",
        "    files.sync_tree(repository)",
        "    pass",
        ORDER,
        "fs and rdiff",
    ),
    Patch(
        "rm does not sync",
        "inventory/removal.py",
        "            os.fsync(target)\n            os.fsync(source)",
        "            pass",
        ORDER,
        "rm or undelete",
    ),
    Patch(
        "a restored tree is not synced",
        "restoring/restore.py",
        "            flushing.filesystem_written_behind(descriptor),\n",
        "",
        ORDER,
        "restore",
    ),
    Patch(
        "a file in a folder of others gets its name unsynced",
        "restoring/extract.py",
        "                os.fsync(descriptor)  # else",
        "                # else",
        ORDER,
        "into",
    ),
    Patch(
        "dead writers are forgotten",
        "store/writer.py",
        "        salvage.look_after_the_dead(store, announce)\n",
        "",
        KILLED,
        "test_some and kill- and chunks and first",
    ),
    Patch(
        "what a dead run left in a dst stays",
        "commands/command.py",
        "                files.sweep(place.folder)\n",
        "",
        KILLED,
        "test_some and kill- and tar and third",
    ),
    Patch(
        "what a dead run left among the records stays",
        "commands/command.py",
        "                    files.sweep_dead(place.folder / FOLDER)",
        "                    pass",
        KILLED,
        "test_some and kill- and (file or tar)",
    ),
    Patch(
        "what a dead run published half stays",
        "files.py",
        "        remove_if_dead(left)\n",
        "        pass\n",
        KILLED,
        "test_some and kill- and (export or distrust or init)",
    ),
    Patch(
        "what a killed restore into a folder left stays",
        "restoring/extract.py",
        "            files.sweep_dead(here, _TEMPORARY, anybodys=True)  # it gets its owner before its name\n",
        "            pass\n",
        "tests/test_extract.py",
        "killed_restore",
    ),
    Patch(
        "a backup without a record stays without",
        "keepers/chunks.py",
        "            recover(place, found)\n",
        "            _ = recover\n",
        REPLAYED + " tests/test_chunks.py",
        "(test_some and chunks and third) or twice",
    ),
    Patch(
        "a store stays half made",
        "store/chunks.py",
        "        files.make_folder(self.chunks)  # who",
        "        # who",
        REPLAYED + " tests/test_chunks.py",
        "(test_some and chunks and first) or half_way",
    ),
    Patch(
        "a chunk is believed",
        "store/chunks.py",
        "if hashlib.sha256(content).hexdigest() != name:",
        "if False:",
        "tests/test_store.py tests/test_scrub.py tests/test_chunks.py",
        "damage or swap or flip or evidence",
    ),
    Patch(
        "what is damaged gets the name that was asked for",
        "restoring/restore.py",
        "staging.damaged_name(wish.target) if complaints.damaged else wish.target",
        "wish.target",
        "tests/test_restore.py tests/test_chunks.py",
        "damage",
    ),
    Patch(
        "no lock is exclusive",
        "locks.py",
        "(fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)",
        "fcntl.LOCK_SH",
        "tests/faults/test_concurrent.py",
        "f45",
    ),
    Patch(
        "a sweep of chunks heeds no writer",
        "store/collect.py",
        "with store.locked(exclusive=True, wait=wait), Tally",
        "with store.locked(exclusive=False, wait=wait), Tally",
        "tests/faults/test_concurrent.py tests/test_cleanup.py",
        "f56 or about_to_be_swept",
    ),
    Patch(
        "a dead tar is believed",
        "sources/complaints.py",
        "accepted=(0, 1, 2)",
        "accepted=range(-64, 256)",
        "tests/test_fs.py",
        "F03",
    ),
    Patch(
        "what changes while it is read is not named",
        "sources/reading.py",
        "if reading.size != before.st_size or _looks(before) != _looks(after):",
        "if False:",
        "tests/faults/test_source.py",
        "chunks",
    ),
    Patch(
        "what changes under tar is not named",
        "sources/complaints.py",
        "            self.changed.add(_path(",
        "            _ = (_path(",
        "tests/faults/test_source.py",
        "tar",
    ),
    Patch(
        "a size that cannot be is believed",
        "store/entry.py",
        "    if not _fits(member.size, 63):",
        "    if False:",
        "tests/faults/test_hostile.py",
        "outside",
    ),
    Patch(
        "a stamp is used twice",
        "keepers/recording.py",
        "stamp = free_stamp(newest)",
        "stamp = free_stamp(None)",
        "tests/faults/test_clock.py",
        "tar",
    ),
    Patch(
        "removed backups lose their chunks",
        "store/uses.py",
        "if is_folder and name not in (FOLDER, RECORDS):",
        'if is_folder and name not in (FOLDER, RECORDS, ".removed"):',
        "tests/test_cleanup.py",
        "keeps_its_chunks",
    ),
    Patch(
        "the number of tar's process counts",
        "sources/steady.py",
        'return self._named.sub(b"GNUSparseFile.0", path)',
        "return path",
        "tests/test_fs.py",
        "hole",
    ),
    Patch(
        "a restore does not wait for its helpers",
        "restoring/helpers.py",
        "        while self._pipes:\n            child, pipe = next(",
        "        while False:\n            child, pipe = next(",
        KILLED,
        "test_some and several",
    ),
    Patch(
        "a helper outlives whom it helps",
        "restoring/helpers.py",
        "            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))\n",
        "",
        "tests/test_helpers.py",
        "dies",
    ),
    Patch(
        "what a helper met is not told",
        "restoring/helpers.py",
        "        complaints.add(*told)\n",
        "",
        "tests/test_helpers.py",
        "damaged",
    ),
    Patch(
        "what a scrub of a target found is forgotten before it is owed",
        "offsite/objects.py",
        "        if bad:\n            self._debts.owe_all()\n        self._delivery.forget(list(bad))\n",
        "        self._delivery.forget(list(bad))\n        if bad:\n            self._debts.owe_all()\n",
        KILLED,
        "journal and scrub",
    ),
    Patch(
        "a journal is emptied before it is forgotten how far it went",
        "offsite/state.py",
        "                self._witness.forget()\n                os.ftruncate(journal, 0)\n",
        "                os.ftruncate(journal, 0)\n                self._witness.forget()\n",
        KILLED,
        "state and reset",
    ),
    Patch(
        "a note of what is sent may be undone when the power fails",
        "offsite/ledger.py",
        "PRAGMA synchronous = EXTRA",
        "PRAGMA synchronous = FULL",
        ORDER,
        "encrypted",
    ),
    Patch(
        "what was removed at a target may come back when the power fails",
        "offsite/folder.py",
        "                files.sync_folder(folder)\n        except",
        "                pass\n        except",
        ORDER,
        "mirror",
    ),
    Patch(
        "a name may lead out of the tree",
        "keepers/headers.py",
        'if b".." in parts:',
        "if False:",
        "tests/test_extract.py",
        "hostile",
    ),
    Patch(
        "an error of a descriptor is a bug",
        "cli.py",
        "isinstance(error.filename, str | bytes) and error.filename",
        "error.filename",
        "tests/test_cli.py",
        "descriptor",
    ),
)


def survives(patch: Patch) -> bool:
    """Whether the tests pass although `patch` breaks a promise."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as name:
        copy = Path(name) / "copy"
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
        path = copy / "btw_backup" / patch.file
        text = path.read_text()
        assert text.count(patch.old) == 1, f"{patch.name}: what is to be patched is there {text.count(patch.old)} times"
        path.write_text(text.replace(patch.old, patch.new))
        command = [sys.executable, "-m", "pytest", "-xq", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*command, f"--basetemp={name}/pytest", "-k", patch.which, *patch.tests.split()],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode in (0, 1), ended.stdout + ended.stderr
        return ended.returncode == 0


def main(names: list[str]) -> int:
    """Try the patches of these names, or all."""
    chosen = [patch for patch in PATCHES if not names or any(name in patch.name for name in names)]
    survivors = 0
    for patch in chosen:
        began = time.monotonic()
        survived = survives(patch)
        survivors += survived
        print(f"{'SURVIVES' if survived else 'noticed':9} {time.monotonic() - began:4.0f} s  {patch.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} patches are noticed")
    return min(1, survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

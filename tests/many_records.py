"""Makes many backups quickly: records and files that look like those of runs, without the runs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from btw_backup import files, records
from btw_backup.clock import stamp_of
from btw_backup.records import Record


def make(root: Path, count: int, dst: str = "many") -> list[str]:
    """`count` backups of type chunks, whose manifests are empty, in `dst`; their stamps."""
    place = root / dst
    place.mkdir(parents=True)
    fsync, files.os.fsync = files.os.fsync, lambda _: None  # ten thousand of them take minutes
    try:
        return [_one(place, number) for number in range(count)]
    finally:
        files.os.fsync = fsync


def _one(place: Path, number: int) -> str:
    stamp = stamp_of(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=number))
    times = {"started": stamp, "finished": stamp}
    digests = {"sha256": f"{number:064x}", "content": f"{number:064x}"}
    record = Record(f"{number:032x}", stamp, number + 1, "fs", "/tree", "chunks", **times, length=number, **digests)
    records.write(place, record)
    (place / f"{stamp}.manifest.zst").touch()
    return stamp

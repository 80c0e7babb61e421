"""What a target was when something was last sent there: another place, or another layout, has nothing of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from btw_backup import files, log, regular
from btw_backup.configuration.addresses import Address
from btw_backup.offsite.state import SYNC, SyncState


def compare(folder: Path, address: Address, noted: SyncState) -> None:
    """Compare a target with what it was, which is remembered in `folder`: one that is new, or is somewhere else or laid
    out otherwise than before, is owed all that there is."""
    path = folder / f"{address.name}.json"
    if address.layout == "objects" and not path.with_suffix(".sqlite").exists():
        noted.owe(SYNC, "")  # what was sent there is not known, or not any more
    wanted = {"place": address.place, "layout": address.layout, "encrypt_to": list(address.encrypt_to)}
    known = _known(path)
    if known == wanted:
        return
    if known.get("place") != wanted["place"] or known.get("layout") != wanted["layout"]:
        noted.owe(SYNC, "")
        path.with_suffix(".id").unlink(missing_ok=True)  # of the disk of before
    elif known.get("encrypt_to") != wanted["encrypt_to"]:
        hint = "if nobody meant that, somebody else can read what is sent from now on"
        log.warn(
            f"ENCRYPT_TO of the target {address.name} is not what it was: {_names(known)}, now {_names(wanted)}", hint
        )
    files.make_folder(path.parent)
    files.write_whole(path, json.dumps(wanted, indent=1).encode() + b"\n")


def _names(known: Mapping[str, Any]) -> str:
    recipients = known.get("encrypt_to")
    return ", ".join(map(str, recipients)) if isinstance(recipients, list) and recipients else "nobody"


def _known(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(regular.read(path)))
    except (OSError, ValueError, TypeError):
        return {}

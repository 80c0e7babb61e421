"""Which store keys of a target are believed: with them its records are authenticated."""

from collections.abc import Iterable, Sequence

from btw_backup import log
from btw_backup.errors import Damaged, FatalUserError
from btw_backup.offsite import storekey
from btw_backup.offsite.complaints import MAY_NOT_READ, is_refusal
from btw_backup.offsite.sealing import Identities


def store_keys(
    place: str, objects: Iterable[tuple[str, bytes]], identities: Identities, pins: Sequence[str], problems: list[str]
) -> list[bytes]:
    """The store keys of `place` that can be opened, those of `pins` alone if there are any. `objects` are their paths
    and contents, and note in `problems` which of them are lost. Raises `Damaged`, `FatalUserError` if it is none."""
    found, refused, why = {}, [], ""
    for path, content in objects:
        try:
            text = identities.open(content)[: 2 * storekey.LENGTH + 1]
            key = storekey.parsed(text, path)
        except FatalUserError as error:
            why = f"{error.message}" + (f"; {error.hint}" if error.hint else "")
            continue
        mark = storekey.fingerprint(key)
        (refused.append(mark) if pins and mark not in pins else found.update({mark: key}))
    if found:  # what else rotted there is of no use to anybody
        for problem in problems:
            log.warn(f"{place}: {problem}")
        problems.clear()
    if refused:
        problems.append(f"a store key with the fingerprint {refused[0]} lies there, and is not the known one")
    if not found and any(map(is_refusal, problems)):
        raise FatalUserError(f"{place}: the store key cannot be fetched: {problems[0]}", MAY_NOT_READ)
    if not found and (refused or not why):
        raise Damaged(f"{place}: the store key is not there", "; ".join(problems))
    if not found:
        raise FatalUserError(f"{place}: {why.partition('; ')[0]}", why.partition("; ")[2])
    if not pins:
        log.warn(
            f"nobody vouches for the store key of {place}, {', '.join(found)}",
            "compare that with what keys test printed; it can be given as --fingerprint",
        )
    return list(found.values())

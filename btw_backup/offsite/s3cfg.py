"""What stands in the configuration file of s3cmd, and what may not stand there.

If it speaks HTTP to another machine, whoever is on the way reads what is not encrypted, and can answer in the place of
the target; so that is refused, unless ``ALLOW_HTTP = True`` says that the way is trusted.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from btw_backup import log
from btw_backup.offsite import Unreachable

AMAZON = "s3.amazonaws.com"
"""The server that s3cmd takes if the file names none."""

_LINE = re.compile(r'^\s*(\w+)[^\S\n]*=[^\S\n]*(?:"(.*)"|(.*?))[^\S\n]*$', re.MULTILINE)
_UNPROVABLE = re.compile(r"^\s*(encrypt|dry_run|human_readable_sizes)\s*=\s*(true|yes|on|1)\s*$", re.MULTILINE | re.I)
_NO = ("false", "no", "off", "0")
_HINT = (
    "use_https = True in {}; or, if everybody on the way is trusted, ALLOW_HTTP = True (restore --from: --allow-http)"
)


def settings_of(config: str) -> dict[str, str]:
    """What s3cmd's file `config` says, as text; of several lines the last holds, as for s3cmd. Raises OSError."""
    text = Path(config).expanduser().read_text("utf-8", "replace")
    return {name: quoted or bare for name, quoted, bare in _LINE.findall(text)}


def is_on(said: Mapping[str, str], name: str) -> bool:
    """Whether the setting `name`, which is on by default, is."""
    return said.get(name, "True").lower() not in _NO


def speaks_in_clear(config: str) -> bool:
    """Whether s3cmd's file `config` has it speak HTTP, to another machine or by way of one."""
    try:
        said = settings_of(config)
    except OSError:
        return False
    hosts = [said.get("host_base", AMAZON), said.get("host_bucket", AMAZON), *filter(None, [said.get("proxy_host")])]
    return not is_on(said, "use_https") and not all(map(_is_here, hosts))


def refuse_http(config: str, place: str) -> None:
    """Raise `Unreachable` if s3cmd would speak HTTP to `place`, on another machine."""
    if speaks_in_clear(config):
        raise Unreachable(
            f"{config} has s3cmd speak HTTP to {place}, which others can read and fake", _HINT.format(config)
        )


def warn_of_http(config: str, place: str) -> None:
    """Say it if s3cmd speaks HTTP to `place`, on another machine, as it did for the old script."""
    if speaks_in_clear(config):
        what = f"{place} is spoken to over HTTP, as before, though everybody on the way can read and fake that"
        log.warn(what, _HINT.format(config))


def refuse_unprovable(config: str) -> None:
    """Refuse settings of s3cmd's with which nothing of what was sent can be recognised in a listing."""
    try:
        found = _UNPROVABLE.search(Path(config).read_text("utf-8", "replace"))
    except OSError as error:
        raise Unreachable(f"the S3CMD_CONFIG {config} cannot be read: {error.strerror}") from error
    if found:
        hint = "take it out; s3cmd cannot encrypt backups that are to be compared" if found[1] == "encrypt" else ""
        raise Unreachable(f"{config} sets {found[1]} = {found[2]}, with which nothing can be proved", hint)


def _is_here(host: str) -> bool:
    """Whether `host`, which may have a port, is this machine, whoever answers for names."""
    name = re.sub(r"^https?://", "", host).split("/", maxsplit=1)[0]
    name = re.sub(r":\d+$", "", name).removeprefix("[").removesuffix("]")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False

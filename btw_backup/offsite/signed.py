"""What s3cmd cannot ask S3 for: versions of objects, and how long they are locked. Asked by the library botocore.

The server and the credentials are those of the configuration file of s3cmd, and no others: neither the environment nor
the files of other programs are looked at.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from btw_backup import files
from btw_backup.configuration.addresses import Address
from btw_backup.errors import MissingProgram, ProgramFailed
from btw_backup.offsite import Refused, Unreachable, s3cfg
from btw_backup.offsite.complaints import HINTS

AT_ONCE = 8
"""How many requests are under way at once: each mostly waits for the server."""

NO_LOCK = "a bucket gets object lock when it is made; or take OBJECT_LOCK out of the configuration"

_ABSENT = (
    "NoSuchObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "NoSuchKey",
    "NoSuchVersion",
    "404",
    "NotImplemented",
)
_MTIME = re.compile(r"(?:^|/)mtime:(\d+)")  # as s3cmd notes it
_PIECE = 1 << 20
_CONNECT, _READ = 10, 60


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the object `path`, by its `identity`; if it `is_marker`, it says that the object was deleted."""

    path: str
    identity: str
    made: datetime
    size: int = 0
    checksum: str = ""
    is_marker: bool = False
    is_latest: bool = False


@dataclass(frozen=True, slots=True)
class Retention:
    """How long, and how, a version is locked."""

    mode: str
    until: datetime


class Signed:
    """The objects at `address`. All raise `Unreachable`, `Refused`, `ProgramFailed`."""

    def __init__(self, address: Address) -> None:
        self.name = address.place
        if not address.allow_http:
            s3cfg.refuse_http(address.s3cmd_config, address.place)
        self._bucket, _, self._prefix = address.place.removeprefix("s3://").partition("/")
        self._client = _client(address.s3cmd_config)
        self._may_read = True

    def locks_by_default(self) -> bool | None:
        """Whether the bucket locks by itself what is written to it; None if nothing can be locked in it."""
        with self._explained():
            found = self._client.get_object_lock_configuration(Bucket=self._bucket).get("ObjectLockConfiguration") or {}
            return "Rule" in found if found.get("ObjectLockEnabled") == "Enabled" else None
        return None

    def versions(self, prefix: str = "", after: str = "") -> Iterator[Version]:
        """All versions of the objects whose path begins with `prefix`, in the order of their paths, the newest first;
        from about behind the path `after` on."""
        pages = self._client.get_paginator("list_object_versions")
        marker = {"KeyMarker": self._prefix + after} if after else {}
        with self._explained():
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **marker):
                found = [self._version(row, is_marker=False) for row in page.get("Versions", ())]
                found += [self._version(row, is_marker=True) for row in page.get("DeleteMarkers", ())]
                found.sort(key=lambda one: (one.is_latest, one.made, not one.is_marker), reverse=True)
                yield from sorted(found, key=lambda one: one.path)

    def _version(self, row: dict[str, Any], *, is_marker: bool) -> Version:
        path = row["Key"].removeprefix(self._prefix)
        size, checksum = row.get("Size", 0), row.get("ETag", "").strip('"')
        return Version(path, row["VersionId"], row["LastModified"], size, checksum, is_marker, row["IsLatest"])

    def retention(self, path: str, version: str = "") -> Retention | None:
        """How `version` of an object, by default the newest, is locked; None if it is not.

        Who may read an object is told so with its head; who may not has to ask for just that.
        """
        if self._may_read:
            try:
                with self._explained():
                    found = self._client.head_object(**self._object(path, version))
                    if "ObjectLockRetainUntilDate" in found:
                        return Retention(str(found["ObjectLockMode"]), found["ObjectLockRetainUntilDate"])
            except Refused:
                self._may_read = False
        with self._explained():
            found = self._client.get_object_retention(**self._object(path, version)).get("Retention") or {}
            if "RetainUntilDate" in found:
                return Retention(str(found["Mode"]), found["RetainUntilDate"])
        return None

    def retain(self, path: str, retention: Retention, version: str = "", *, bypass: bool = False) -> None:
        """Lock a version, and see that it is locked. `bypass` asks for the right to shorten."""
        wanted = {"Mode": retention.mode, "RetainUntilDate": retention.until}
        more = {"BypassGovernanceRetention": True} if bypass else {}
        with self._explained(absent_is_none=False):
            self._client.put_object_retention(**self._object(path, version), Retention=wanted, **more)
        found = self.retention(path, version)
        if found is None or found.until < retention.until:
            raise ProgramFailed(f"{self.name}: {path} is not locked, although the server says that it locked it")

    def prolong(self, path: str, wanted: Retention, version: str = "") -> None:
        """Lock a version at least as long as is `wanted`. What is locked keeps its mode: to change it takes a right."""
        try:
            self.retain(path, wanted, version)
        except Refused as refused:  # also because it is locked longer, or otherwise
            try:
                known = self.retention(path, version)
            except ProgramFailed:
                raise refused from None
            if known is None or (known.until < wanted.until and known.mode == wanted.mode):
                raise
            if known.until < wanted.until:
                self.retain(path, Retention(known.mode, wanted.until), version)

    def destroy(self, path: str, version: str) -> None:
        """Delete a version of an object, for ever."""
        with self._explained(absent_is_none=False):
            self._client.delete_object(**self._object(path, version), BypassGovernanceRetention=True)

    def fetch(self, path: str, version: str, target: Path) -> None:
        """Copy a version of an object to the new file `target`, with the time of change that s3cmd noted."""
        with self._explained(absent_is_none=False):
            found = self._client.get_object(**self._object(path, version))
            with files.create(target) as out:
                for piece in found["Body"].iter_chunks(_PIECE):
                    files.write_all(out.fileno(), piece)
        if noted := _MTIME.search(found.get("Metadata", {}).get("s3cmd-attrs", "")):
            os.utime(target, (int(noted[1]), int(noted[1])))

    def _object(self, path: str, version: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path, **({"VersionId": version} if version else {})}

    @contextmanager
    def _explained(self, *, absent_is_none: bool = True) -> Iterator[None]:
        """Our errors in the place of botocore's. That there is no lock is the end of the block, if it is no error."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - takes long to load

        try:
            yield
        except ClientError as error:
            answer = error.response.get("Error", {})
            code, status = str(answer.get("Code", "")), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if absent_is_none and code in _ABSENT:
                return
            message = f"{self.name}: S3 error: {status} ({code}): {answer.get('Message') or ''}".rstrip(": ")
            kind = Refused if status == 403 else Unreachable if (status or 500) >= 500 else ProgramFailed
            raise kind(message, HINTS.get(code, "")) from error
        except (BotoCoreError, KeyError) as error:
            raise Unreachable(f"{self.name}: {error}") from error


def _client(s3cmd_config: str) -> Any:
    try:
        from botocore.config import Config  # noqa: PLC0415 - takes 0.3 s to load, and is not needed by all
        from botocore.session import Session  # noqa: PLC0415 - as above
    except ImportError as error:
        hint = "pip install 'btw-backup[lock]', or apt-get install python3-botocore"
        what = "the Python library botocore is not installed, which locks objects and reads older versions of them"
        raise MissingProgram(what, hint) from error
    said = _settings_of(s3cmd_config)
    server, secure = said.get("host_base", s3cfg.AMAZON), s3cfg.is_on(said, "use_https")
    checks = s3cfg.is_on(said, "check_ssl_certificate")
    way = f"http://{said['proxy_host']}:{said.get('proxy_port', '3128')}" if said.get("proxy_host") else ""
    virtual = "%(bucket)s" in said.get("host_bucket", "%(bucket)s")
    place = said.get("bucket_location", "US")
    nothing = {name: (None, None, os.devnull, None) for name in ("config_file", "credentials_file")}
    client = Session(session_vars={"profile": (None, None, None, None), **nothing}).create_client(
        "s3",
        region_name="us-east-1" if place in ("", "US") else place,
        endpoint_url=None if server == s3cfg.AMAZON else f"{'https' if secure else 'http'}://{server}",
        aws_access_key_id=said["access_key"],
        aws_secret_access_key=said["secret_key"],
        aws_session_token=said.get("access_token") or None,
        verify=(said.get("ca_certs_file") or True) if checks else False,
        config=Config(
            s3={"addressing_style": "virtual" if virtual else "path"},
            retries={"max_attempts": 3, "mode": "standard"},
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            max_pool_connections=AT_ONCE,
            proxies={"http": way, "https": way} if way else {},
        ),
    )
    client.meta.events.register("before-call.s3.PutObjectRetention", _add_md5)
    return client


def _settings_of(s3cmd_config: str) -> dict[str, str]:
    """What the configuration file of s3cmd says. Raises `Unreachable`."""
    try:
        found = s3cfg.settings_of(s3cmd_config)
    except OSError as error:
        raise Unreachable(f"the S3CMD_CONFIG {s3cmd_config} cannot be read: {error.strerror}") from error
    for name in ("access_key", "secret_key"):
        if not found.get(name):
            raise Unreachable(f"{s3cmd_config} has no {name}, which is needed to ask for locks and versions")
    return found


def _add_md5(params: dict[str, Any], **rest: object) -> None:
    """Servers other than Amazon's want the digest that was the only one for long."""
    body = params["body"].encode() if isinstance(params["body"], str) else params["body"]
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()

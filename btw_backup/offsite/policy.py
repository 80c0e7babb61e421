"""The policy for the credentials that this machine has, as IAM wants it."""

import json
import math

from btw_backup.configuration.addresses import Address
from btw_backup.offsite.superseded import FOLDER

_RETAIN = "s3:PutObjectRetention"
_NEVER = (
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:DeleteBucket",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:PutBucketObjectLockConfiguration",
    _RETAIN,
    "s3:PutObjectLegalHold",
    "s3:BypassGovernanceRetention",
    "s3:PutObjectAcl",
    "s3:PutBucketAcl",
)
"""Denied in so many words, whatever else the user may: with any of these, backups could be made to vanish. The first is
what ALLOW_REMOVAL needs; where there is versioning, it hides what it deletes, and the others would destroy it. What
OBJECT_LOCK needs locks, and cannot shorten a lock."""


def text_of(address: Address, *, read: bool) -> str:
    """The policy for `address`, as JSON. Without `read` what is there cannot be fetched."""
    bucket, _, prefix = address.place.removeprefix("s3://").rstrip("/").partition("/")
    below = f"arn:aws:s3:::{bucket}/{prefix + '/' if prefix else ''}*"
    write = [
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        *(["s3:GetObject", "s3:GetObjectVersion"] if read else []),
        *([_RETAIN, "s3:GetObjectRetention"] if address.object_lock else []),
    ]
    looks = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
    looks += ["s3:ListBucketVersions"] if read or address.object_lock else []
    looks += ["s3:GetBucketObjectLockConfiguration"] if address.object_lock else []
    listing: dict[str, object] = {
        "Sid": "List",
        "Effect": "Allow",
        "Action": looks,
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    where, needed = _removable(address, below), {_RETAIN} if address.object_lock else set()
    denied = [action for action in _NEVER if action not in needed | ({_NEVER[0]} if where else set())]
    never: dict[str, object] = {"Sid": "Never", "Effect": "Deny", "Action": denied}
    statements = [
        listing,
        {"Sid": "Write", "Effect": "Allow", "Action": write, "Resource": below},
        {**never, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]},
    ]
    if address.object_lock:
        statements.append(
            {"Sid": "NotForEver", "Effect": "Deny", "Action": _RETAIN, "Resource": below, **_longer(address)}
        )
    if where:
        sid = "Remove" if address.allow_removal else "Replace"
        statements += [
            {"Sid": sid, "Effect": "Allow", "Action": "s3:DeleteObject", "Resource": where},
            {"Sid": "NothingElse", "Effect": "Deny", "Action": "s3:DeleteObject", "NotResource": where},
        ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=1)


def _longer(address: Address) -> dict[str, object]:
    """Locks that nobody needs, and that cost room for years: a thief could set them."""
    days = math.ceil(address.object_lock / 86400) + 1
    return {"Condition": {"NumericGreaterThan": {"s3:object-lock-remaining-retention-days": str(days)}}}


def _removable(address: Address, below: str) -> str:
    """What may be deleted of all that is `below`: with ALLOW_REMOVAL what can be removed here, but no record of it; in
    a mirror at least what rdiff-backup replaces. "" if it is nothing."""
    if address.layout == "objects":
        return below.removesuffix("*") + "objects/*" if address.allow_removal else ""
    return below if address.allow_removal else f"{below}/{FOLDER}/*"

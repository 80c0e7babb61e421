"""The policy for the credentials that this machine has, as IAM wants it."""

import json

from btw_backup.configuration.addresses import Address
from btw_backup.offsite.superseded import FOLDER

_NEVER = (
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:DeleteBucket",
    "s3:PutLifecycleConfiguration",
    "s3:PutBucketVersioning",
    "s3:PutBucketPolicy",
    "s3:DeleteBucketPolicy",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutObjectRetention",
    "s3:PutObjectLegalHold",
    "s3:BypassGovernanceRetention",
    "s3:PutObjectAcl",
    "s3:PutBucketAcl",
)
"""Denied in so many words, whatever else the user may: with any of these, backups could be made to vanish. The first is
what ALLOW_REMOVAL needs; where there is versioning, it hides what it deletes, and the others would destroy it."""


def text_of(address: Address, *, read: bool) -> str:
    """The policy for `address`, as JSON. Without `read` what is there cannot be fetched."""
    bucket, _, prefix = address.place.removeprefix("s3://").rstrip("/").partition("/")
    below = f"arn:aws:s3:::{bucket}/{prefix + '/' if prefix else ''}*"
    write = [
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        *(["s3:GetObject"] if read else []),
    ]
    listing: dict[str, object] = {
        "Sid": "List",
        "Effect": "Allow",
        "Action": ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"],
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    never: dict[str, object] = {"Sid": "Never", "Effect": "Deny", "Action": list(_NEVER)}
    never["Action"] = list(_NEVER[1:] if (where := _removable(address, below)) else _NEVER)
    statements = [
        listing,
        {"Sid": "Write", "Effect": "Allow", "Action": write, "Resource": below},
        {**never, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]},
    ]
    if where:
        sid = "Remove" if address.allow_removal else "Replace"
        statements += [
            {"Sid": sid, "Effect": "Allow", "Action": "s3:DeleteObject", "Resource": where},
            {"Sid": "NothingElse", "Effect": "Deny", "Action": "s3:DeleteObject", "NotResource": where},
        ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=1)


def _removable(address: Address, below: str) -> str:
    """What may be deleted of all that is `below`: with ALLOW_REMOVAL what can be removed here, but no record of it; in
    a mirror at least what rdiff-backup replaces. "" if it is nothing."""
    if address.layout == "objects":
        return below.removesuffix("*") + "objects/*" if address.allow_removal else ""
    return below if address.allow_removal else f"{below}/{FOLDER}/*"

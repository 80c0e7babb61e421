"""The rules by which the provider tidies up by itself, as S3 wants them: what this machine has no right to do."""

import json

from btw_backup.configuration.addresses import Address

HALF_SENT_DAYS = 7
"""Longer than any upload takes."""


def text_of(address: Address, *, keep_days: int) -> str:
    """The rules for `address`, as JSON. Nothing that is current is ever removed by them: backups share objects, and the
    age of an object does not tell whether it is needed."""
    prefix = address.place.removeprefix("s3://").partition("/")[2]
    rule = {
        "ID": "btw-backup",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": HALF_SENT_DAYS},
        "NoncurrentVersionExpiration": {"NoncurrentDays": keep_days},
    }
    return json.dumps({"Rules": [rule]}, indent=1)

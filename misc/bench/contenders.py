"""Who is measured, and the commands that each is measured with.

Commands see in their environment: $TREE, the source; $STORE, a folder of their own that is empty before the first
backup; $TARGET, where a restore goes, which does not exist yet; $BTW_BACKUP and $NEWER_BORG, programs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """Commands for bash: what is not timed before the first backup, a backup, and a restore of the newest one.

    `syncs` says what is on disk, power cut or not, when a backup ends.
    """

    name: str
    prepare: str
    backup: str
    restore: str
    syncs: str


def ours(keeper: str) -> Contender:
    """The program of this checkout, as it is installed."""
    run = '"$BTW_BACKUP" -q --config-dir "$STORE/config"'
    prepare = f"""
        mkdir -p "$STORE/config" "$STORE/backups"
        printf 'ROOT_PATH = "%s"\\nOFFSITE = {{}}\\n' "$STORE/backups" >"$STORE/config/config.py"
        {run} fs-init --type {keeper} "$TREE" tree"""
    return Contender(f"btw-backup {keeper}", prepare, f'{run} fs "$TREE" tree', f'{run} restore tree "$TARGET"', "all")


def borg(name: str, program: str, compression: str) -> Contender:
    """Borg, without encryption; its cache lies in its store."""
    run = f'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_BASE_DIR="$STORE/base" "{program}"'
    return Contender(
        name,
        f'{run} init -e none "$STORE/repository"',
        f'cd "$TREE"; {run} create -C {compression} "$STORE/repository::$(date +%s%N)" .',
        f'mkdir "$TARGET"; cd "$TARGET"; {run} extract "$STORE/repository::$({run} list --last 1 --short "$STORE/repository")"',
        "all",
    )


RESTIC = 'RESTIC_PASSWORD=x restic -q --cache-dir "$STORE/cache" -r "$STORE/repository"'
TAR_TO_ZSTD = 'tar -C "$TREE" -cf - . | zstd -q -f -T2 -3 -o "$STORE/archive.tar.zst"'
FROM_ZSTD = 'mkdir "$TARGET"; zstd -q -d -c "$STORE/archive.tar.zst" | tar -C "$TARGET" -xpf -'
STAGED = 'tar -C "$TREE" -cpf "$STORE/stage/backup.tar" .'
TO_RDIFF = 'rdiff-backup --api-version 201 backup "$STORE/stage" "$STORE/repository"'
FROM_RDIFF = 'mkdir "$TARGET"; tar -C "$TARGET" -xpf "$STORE/repository/backup.tar"'

CONTENDERS = (
    ours("tar"),
    ours("rdiff"),
    ours("chunks"),
    Contender("tar | zstd", "", TAR_TO_ZSTD, FROM_ZSTD, "nothing"),
    Contender("tar | zstd, synced", "", TAR_TO_ZSTD + '; sync "$STORE/archive.tar.zst" "$STORE"', FROM_ZSTD, "all"),
    Contender(
        "the old script's way",
        'mkdir "$STORE/stage"',
        f'{STAGED}; cmp -s "$STORE/stage/backup.tar" "$STORE/repository/backup.tar" || {TO_RDIFF}',
        FROM_RDIFF,
        "the repository",
    ),
    Contender("tar, rdiff-backup", 'mkdir "$STORE/stage"', f"{STAGED}; {TO_RDIFF}", FROM_RDIFF, "the repository"),
    Contender(
        "rdiff-backup of the tree",
        "",
        'rdiff-backup --api-version 201 backup "$TREE" "$STORE/repository"',
        'rdiff-backup restore "$STORE/repository" "$TARGET"',  # with --api-version 201, 2.2.2 dies of a TypeError
        "the repository",
    ),
    Contender(
        "restic 0.14",
        f"{RESTIC} init --repository-version 2",
        f'cd "$TREE"; {RESTIC} backup .',
        f'{RESTIC} restore latest --target "$TARGET"',
        "all",
    ),
    borg("borg 1.2 lz4", "borg", "lz4"),
    borg("borg 1.2 zstd", "borg", "zstd,3"),
    borg("borg 1.4 lz4", "$NEWER_BORG", "lz4"),
    borg("borg 1.4 zstd", "$NEWER_BORG", "zstd,3"),
)

SCENARIOS = ("first", "unchanged", "1 % changed", "restore")

LIMITS = (
    ("btw-backup tar", "first", 1.20, "tar | zstd", "first"),
    ("btw-backup tar", "unchanged", 0.15, "tar | zstd", "first"),
    ("btw-backup tar", "unchanged", 0.50, "restic 0.14", "unchanged"),
    ("btw-backup tar", "restore", 1.30, "tar | zstd", "restore"),
    ("btw-backup rdiff", "unchanged", 0.15, "the old script's way", "unchanged"),
    ("btw-backup rdiff", "1 % changed", 1.00, "tar, rdiff-backup", "1 % changed"),
    ("btw-backup chunks", "first", 1.40, "tar | zstd", "first"),
    *(
        ("btw-backup chunks", scenario, limit, peer, scenario)
        for scenario, limit in (("first", 0.60), ("unchanged", 0.30), ("1 % changed", 0.50), ("restore", 0.60))
        for peer in ("restic 0.14", "borg 1.2 lz4", "borg 1.2 zstd", "borg 1.4 lz4", "borg 1.4 zstd")
    ),
)
"""Whose time, where, is at most how many times that of whom, where."""

MEMORY_LIMIT = {"btw-backup tar": 150, "btw-backup rdiff": 150, "btw-backup chunks": 250}
"""MB that ours may need at any time, all processes together."""

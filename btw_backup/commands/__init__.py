"""The subcommands, listed by hand in the order of the help."""

from btw_backup.commands import (
    config,
    db,
    doctor,
    explain,
    fs,
    fs_init,
    init,
    list,
    restore,
    sync,
    sync_state,
)

COMMANDS = (
    init.COMMAND,
    fs_init.COMMAND,
    fs.COMMAND,
    db.COMMAND,
    list.COMMAND,
    explain.COMMAND,
    restore.COMMAND,
    sync.COMMAND,
    sync_state.COMMAND,
    config.COMMAND,
    doctor.COMMAND,
)

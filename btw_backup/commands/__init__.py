"""The subcommands, listed by hand in the order of the help."""

COMMANDS: tuple = ()

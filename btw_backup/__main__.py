"""``python -m btw_backup``."""

from btw_backup.cli import run

if __name__ == "__main__":
    run()

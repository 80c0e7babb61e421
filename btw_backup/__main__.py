"""``python -m btw_backup``."""

import sys

from btw_backup.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Opens the folders of a tree one after the other: by the descriptor of the one above, through no link."""

import os

from btw_backup.sources.walk import FOLDER_FLAGS


class Folders:
    """The folders from the top of `source` to the one that was opened last."""

    def __init__(self, source: str) -> None:
        self._open = [("", os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def open(self, path: str) -> int:
        """The descriptor of the folder `path`, which is good until the next call. OSError if it cannot be opened."""
        parts = ["", *path.split("/")] if path else [""]
        same = 0
        while same < min(len(parts), len(self._open)) and parts[same] == self._open[same][0]:
            same += 1
        while len(self._open) > same:
            os.close(self._open.pop()[1])
        for part in parts[same:]:
            self._open.append((part, os.open(part, FOLDER_FLAGS, dir_fd=self._open[-1][1])))
        return self._open[-1][1]

    def close(self) -> None:
        """Close all."""
        while self._open:
            os.close(self._open.pop()[1])

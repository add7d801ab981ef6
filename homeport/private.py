"""Files of the machinery's own that are for the user alone, in directories for the user alone."""

import json
import os
import stat
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The JSON value in the file at `path`.

    None when there is no such file, when it is not JSON, and when another account owns it or may
    read or write it: what is in it would be believed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            return None
        try:
            return json.load(file)
        except ValueError:
            return None


def write_json(value: Any, path: Path) -> None:
    """Write `value` to `path` atomically and for good, mode 0600.

    Raises `OSError`, as for a full disk.
    """
    temporary = path.with_suffix(f".{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

"""Makes this checkout importable in its own .venv, entry points included, without building it.

Run once by bin/homeport, with the environment's Python: `develop.py ROOT`. An editable
installation by pip would need a build backend from the package index for the same two files.
"""

import sys
import sysconfig
import tomllib
from pathlib import Path


def develop(root: Path, site: Path) -> None:
    """Write a .pth and the distribution's metadata for `root` into the site-packages `site`."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (site / "homeport.pth").write_text(f"{root}\n")
    info = site / f"homeport-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: homeport\nVersion: {project['version']}\n"
    )
    groups = []
    for group, entries in project["entry-points"].items():
        groups += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
    (info / "RECORD").write_text("")


if __name__ == "__main__":
    develop(Path(sys.argv[1]), Path(sysconfig.get_paths()["purelib"]))

"""The lab's simulated NVML: built once from its C source, and laid onto each machine with GPUs.

It is compiled in an image with gcc, of the oldest release of the lab, so that every machine's C
library can load it.
"""

from pathlib import Path

from homeport.lab import LabError, cache, images
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine

HERE = Path(__file__).with_name("hardware") / "nvml"
SOURCE = HERE / "simulated_nvml.c"
COMPILE = "gcc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O1 -shared -fPIC -x c - -o /tmp/lib"
# Where the loader looks without its cache, on every architecture.
LIBRARY = "/usr/lib/libnvidia-ml.so.1"
FAULTS = "/usr/lib/simulated-gpu/faults"


def library(engine: Engine, progress: Progress = quiet) -> Path:
    """The compiled library, from the cache when it was built before. Raises `LabError`."""

    def build(path: Path) -> None:
        image = images.debian_image(
            engine, "compiler", images.RELEASES[0], ("gcc", "libc6-dev"), (), progress
        )
        command = f"{COMPILE} && cat /tmp/lib"
        done = engine.run(
            *("run", "--rm", "--interactive", "--network", "none", *engine.labels),
            *(image, "sh", "-c", command),
            stdin=SOURCE.read_bytes(),
        )
        if done.returncode:
            raise LabError(f"{SOURCE.name}: {done.stderr.decode(errors='replace')[-2000:]}")
        path.write_bytes(done.stdout)

    name = f"{cache.key(SOURCE, COMPILE, images.RELEASES[0])}.so"
    return cache.entry("nvml", name, build, progress)


def files(compiled: Path) -> dict[str, tuple[bytes, int]]:
    """What a machine with simulated GPUs has of it: path to contents and mode."""
    daemon = "nvidia-persistenced"
    unit = f"{daemon}.service"
    return {
        LIBRARY: (compiled.read_bytes(), 0o644),
        f"/usr/bin/{daemon}": ((HERE / daemon).read_bytes(), 0o755),
        f"/usr/lib/systemd/system/{unit}": ((HERE / unit).read_bytes(), 0o644),
    }

"""The GPUs as their driver sees them, and whether the parts of the driver agree.

NVML is asked through nvidia-ml-py, which is installed with the programs aboard. Where those are
not there yet, nvidia-smi says which cards there are and within which limits; the rest is None.
Powers are in W, clocks in MHz, memory in MiB, temperatures in °C.

What is set on a card is lost at a reboot and when the driver is loaded anew. The unit
homeport-nvidia.service sets it again, by `homeport-node nvidia apply`; `reset` takes it back.
"""

import contextlib
import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from homeport_node import kernel_cmdline_grub as grub
from homeport_node.common import NVIDIA_HELD, dropins, own_files, read, run, show_units

WANTED = "/etc/homeport/nvidia.json"
# What was set since the last boot, and on which cards: it is lost together with the settings.
APPLIED = "/run/homeport-nvidia.json"
UNIT, PERSISTENCED = "homeport-nvidia.service", "nvidia-persistenced.service"
ABOARD = "/opt/homeport/current"
# One of them is there where the inventory wants the capability.
MANAGED = (Path(NVIDIA_HELD), Path("/etc/systemd/system", UNIT))
SYS, MODULES, BOOT = Path("/sys"), Path("/lib/modules"), Path("/boot")
# Kernels that `proxmox-boot-tool kernel pin` chose: for the next boot, and for every one.
PINS = (Path("/etc/kernel/next-boot-pin"), Path("/etc/kernel/proxmox-boot-pin"))
# With it proxmox-boot-tool keeps the boot loader's files, and GRUB's menu here counts for nothing.
PROXMOX = Path("/etc/kernel/proxmox-boot-uuids")
# Debian gives the file of the module another name than the module: nvidia-current.ko.
MODULE_FILE = re.compile(r"nvidia(-current|-tesla(-\d+)?)?(-open)?\.ko(\.(gz|xz|zst))?")
# What dkms signs modules with: Debian's, and Ubuntu's.
SIGNERS = (Path("/var/lib/dkms/mok.pub"), Path("/var/lib/shim-signed/mok/MOK.der"))
SMI_FIELDS = ("uuid", "name", "pci.bus_id", "power.min_limit", "power.max_limit", "clocks.max.gr")
# nvml.h, nvmlClocksEventReasons: why the clocks are what they are, by bit.
REASONS = {
    0x1: "idle",
    0x2: "clocks set by the user",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
Card = dict[str, Any]


def bindings() -> Any:
    """The module pynvml of the programs aboard, else the node's own; None without one."""
    for place in Path(ABOARD).glob("lib/python3*/site-packages"):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What an NVML function answers; None where this card or driver has no answer to give.

    Raises NVMLError when the card is lost, or needs a reset.
    """
    gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError as error:
        if error.value in gone:
            raise
        return None


def watts(milliwatts: "int | None") -> "float | None":
    """NVML counts power in mW."""
    return None if milliwatts is None else milliwatts / 1000


def describe(nvml: Any, handle: Any) -> Card:
    """Everything about one card. Raises NVMLError, such as "GPU is lost"."""
    limits = ask(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", handle) or (None, None)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    reasons = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    graphics = nvml.NVML_CLOCK_GRAPHICS
    celsius = ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU)
    running = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    return {
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "name": nvml.nvmlDeviceGetName(handle),
        "pci": nvml.nvmlDeviceGetPciInfo(handle).busId.lower(),
        "persistence": bool(ask(nvml, "nvmlDeviceGetPersistenceMode", handle)),
        "power_w": watts(ask(nvml, "nvmlDeviceGetPowerManagementLimit", handle)),
        "power_default_w": watts(ask(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        "power_min_w": watts(limits[0]),
        "power_max_w": watts(limits[1]),
        "clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", handle, graphics),
        "clock_max_mhz": ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, graphics),
        "temperature_c": celsius,
        "memory_mib": None if memory is None else memory.total >> 20,
        "memory_used_mib": None if memory is None else memory.used >> 20,
        "clock_reasons": [word for bit, word in REASONS.items() if bit & (reasons or 0)],
        "processes": [
            {"pid": one.pid, "memory_mib": (one.usedGpuMemory or 0) >> 20} for one in running
        ],
    }


def handles(nvml: Any) -> "tuple[dict[str, Any], list[str]]":
    """({UUID: handle}, what is wrong with the cards that have none). After nvmlInit."""
    found, lost = {}, []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            found[nvml.nvmlDeviceGetUUID(handle)] = handle
        except nvml.NVMLError as error:
            lost.append(f"GPU {index}: {error}")
    return found, lost


def through_nvml(nvml: Any) -> "dict[str, Any]":
    """{"cards", "lost", "driver", "nvml", "error", "mismatch"}; `error` is why there are none."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        mismatch = error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        return {"cards": [], "lost": [], "error": str(error), "mismatch": mismatch}
    try:
        cards: list[Card] = []
        by_uuid, lost = handles(nvml)
        for uuid, handle in by_uuid.items():
            try:
                cards.append(describe(nvml, handle))
            except nvml.NVMLError as error:
                lost.append(f"{uuid}: {error}")
        return {
            "cards": cards,
            "lost": lost,
            "error": "",
            "mismatch": False,
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "nvml": nvml.nvmlSystemGetNVMLVersion(),
        }
    finally:
        nvml.nvmlShutdown()


def _number(text: str) -> "float | None":
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def through_smi() -> "dict[str, Any]":
    """As `through_nvml`, of what nvidia-smi says, while the bindings are not aboard."""
    ran = run("nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits")
    if not ran.ok:
        words = (ran.err or ran.out).strip()
        return {"cards": [], "lost": [], "error": words, "mismatch": "version mismatch" in words}
    cards = []
    for row in csv.reader(ran.out.splitlines(), skipinitialspace=True):
        uuid, name, pci, *numbers = row
        least, most, clock = map(_number, numbers)
        limits = {"power_min_w": least, "power_max_w": most, "clock_max_mhz": clock}
        unread = dict.fromkeys(("persistence", "power_w", "clock_mhz"))
        cards.append({"uuid": uuid, "name": name, "pci": pci.lower(), **unread, **limits})
    return {"cards": cards, "lost": [], "error": "", "mismatch": False}


def library_version(links: "list[Path] | None" = None) -> str:
    """The version of libnvidia-ml.so.1 in its file's name, "" when there is none."""
    places = links
    if places is None:
        listed = re.findall(r"libnvidia-ml\.so\.1 .*=> (\S+)", run("/sbin/ldconfig", "-p").out)
        places = [Path(one) for one in listed]
    for place in places:
        version = re.search(r"libnvidia-ml\.so\.(\d+\..+)$", os.path.realpath(place))
        if version:
            return version[1]
    return ""


def next_kernel() -> str:
    """The release of the installed kernel that boots by itself: one that Proxmox pins, else that of
    GRUB's default entry, else the newest, as systemd-boot and a GRUB nobody configured do."""
    releases = [path.name.removeprefix("vmlinuz-") for path in BOOT.glob("vmlinuz-*")]
    chosen = [(read(pin) or "").strip() for pin in PINS]
    if releases and not any(chosen) and not PROXMOX.exists():
        chosen = [grub.kernel_release(grub.booted_entry())]
    for one in chosen:
        if one in releases:
            return one
    numbers = {one: [int(part) for part in re.findall(r"\d+", one)] for one in releases}
    return max(releases, key=lambda one: numbers[one], default="")


def module_file(kernel: str) -> str:
    """The file of the nvidia module that is installed for `kernel`, "" without one."""
    for folder, _, names in os.walk(MODULES / kernel):
        for name in names:
            if MODULE_FILE.fullmatch(name):
                return f"{folder}/{name}"
    return ""


def modinfo(module: str, field: str) -> str:
    """What modinfo says of the file `module`; "" where there is none."""
    return run("/sbin/modinfo", "-F", field, module).out.strip() if module else ""


def unknown_signer(module: str) -> str:
    """The file with the key that the file `module` is signed with, where Secure Boot is on and does
    not know that key: the kernel will not load it. "" where it will, and where nobody can tell."""
    state = run("mokutil", "--sb-state").out
    if "SecureBoot enabled" not in state or "disabled" in state:  # "… is disabled in shim"
        return ""
    serial = bytes.fromhex("".join(re.findall("[0-9A-F]{2}", modinfo(module, "sig_key"))))
    for key in SIGNERS:
        with contextlib.suppress(OSError):
            if serial and serial in key.read_bytes():
                # One that waits to be enrolled at the next boot counts as enrolled.
                said = run("mokutil", "--test-key", str(key)).out
                return str(key) if "is not enrolled" in said else ""
    return ""


def units() -> "dict[str, dict[str, Any]]":
    """{unit: {"enabled", "active", "stale", "masked", "dropins", "packaged": its own ExecStart,
    without drop-ins, "" while it is masked}}"""
    found = {}
    for name, values in show_units(UNIT, PERSISTENCED).items():
        text = read(values["FragmentPath"]) if values.get("FragmentPath") else None
        if text is not None:
            starts = re.findall(r"^ExecStart=(.*)$", text, re.M)
            found[name] = {
                "enabled": values.get("UnitFileState") == "enabled",
                "active": values.get("ActiveState") == "active",
                "stale": values.get("NeedDaemonReload") == "yes",
                "masked": values.get("LoadState") == "masked",
                "dropins": dropins(values),
                "packaged": starts[-1] if starts else "",
            }
    return found


def load(path: str) -> "dict[str, Any]":
    """The JSON object in the file at `path`, {} when there is none."""
    with contextlib.suppress(ValueError):
        value = json.loads(read(path) or "{}")
        return value if isinstance(value, dict) else {}
    return {}


def agreement() -> "dict[str, Any]":
    """The versions of the driver's parts, "" for one that is not there; asks no card anything."""
    kernel = next_kernel()
    module = module_file(kernel) if kernel else ""
    return {
        "unknown_signer": unknown_signer(module),
        "nouveau": (SYS / "module/nouveau").exists(),
        "next_kernel": kernel,
        "versions": {
            "loaded": (read(SYS / "module/nvidia/version") or "").strip(),
            "library": library_version(),
            "next": modinfo(module, "version"),
        },
    }


def observe(files: "list[str] | None" = None) -> "dict[str, Any]":
    """The cards, our `files` as they are there, and the versions that have to agree."""
    nvml = bindings()
    return {
        **(through_smi() if nvml is None else through_nvml(nvml)),
        **agreement(),
        "bindings": nvml is not None,
        "files": own_files(files or []),
        "applied": load(APPLIED),
        "units": units(),
    }


def reboot_reasons(observed: "dict[str, Any]") -> "list[str]":
    """Why the driver needs a reboot, in words; empty when it needs none. Takes what `agreement` or
    `observe` returned on a node whose inventory wants the driver."""
    versions = observed["versions"]
    loaded, library = versions["loaded"], versions["library"]
    if not library:
        return []
    if not loaded and observed["nouveau"]:
        return ["nouveau holds the GPUs until the nvidia module is loaded at the next boot"]
    if loaded and loaded != library:
        return [f"the loaded nvidia module is {loaded}, and the installed driver is {library}"]
    return []


def reboot_refusals(observed: "dict[str, Any]") -> "list[str]":
    """Why a reboot would leave the node without its GPUs, with the remedy; empty when it would not.
    Takes what `reboot_reasons` takes."""
    versions, kernel = observed["versions"], observed["next_kernel"]
    library = versions["library"]
    if not library or not kernel:
        return []
    if versions["next"] == library:
        key = observed.get("unknown_signer")
        words = (
            f"the nvidia module is signed with the key {key}, which Secure Boot does not know, and "
            f"the kernel will not load it: `mokutil --import {key}` on the node asks for a "
            "password of your choice, and the node's screen for the same at the next boot"
        )
        return [words] if key else []
    there = f"is {versions['next']}" if versions["next"] else "is missing"
    return [
        f"the nvidia module for the kernel that boots next, {kernel}, {there}, and the installed "
        f"driver is {library}: `dkms autoinstall -k {kernel}` builds it where that kernel's "
        "headers are installed, and says why it cannot"
    ]


def reboot_reason() -> str:
    """Why this node waits for a reboot, "" when it does not, or when the driver is not ours."""
    managed = any(path.exists() for path in MANAGED)
    return "; ".join(reboot_reasons(agreement())) if managed else ""


def reboot_fault() -> str:
    """Why this node must not reboot now, "" when it may, or when the driver is not ours."""
    managed = any(path.exists() for path in MANAGED)
    return "; ".join(reboot_refusals(agreement())) if managed else ""


def _work(function: str) -> Any:
    """The work of a verb: it needs what travels with no fact."""
    from homeport_node import nvidia_settings

    return getattr(nvidia_settings, function)


def apply(arguments: "list[str]") -> int:
    """Set what the file WANTED asks for, and take back what it no longer does."""
    _work("apply")(load(WANTED))
    return 0


def reset(arguments: "list[str]") -> int:
    """Take back everything that `apply` set."""
    _work("apply")({})
    return 0


VERBS = {"apply": apply, "reset": reset}

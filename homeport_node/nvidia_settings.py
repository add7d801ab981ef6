"""Sets power limits and locked clocks through NVML, reads them back, and takes them back.

Runs as root, from homeport-nvidia.service. A setter of NVML that answers "success" proves nothing:
the power limit is read back. NVML has no function that reads locked clocks, so only a card that
computes can contradict them: its clock is then above the lock.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from homeport_node import nvidia

# A GPU's clock moves in steps of 15 MHz, and the lock is the nearest step.
STEP_MHZ = 15
SETTLE_S = 2.0

Wanted = dict[str, dict[str, Any]]


def out_of_range(wanted: "dict[str, Any]", card: "dict[str, Any]") -> "list[str]":
    """What `wanted` asks of `card` that it does not allow, in words."""
    found = []
    power, clocks = wanted.get("power_limit"), wanted.get("locked_clocks")
    least, most = card.get("power_min_w"), card.get("power_max_w")
    if power is not None and least is not None and most is not None and not least <= power <= most:
        found.append(f"power_limit {power} W; the card allows {least:g} to {most:g} W")
    highest = card.get("clock_max_mhz")
    if clocks and highest is not None and clocks[1] > highest:
        asked = f"{clocks[0]} to {clocks[1]} MHz"
        found.append(f"locked_clocks {asked}; the card allows at most {highest:g} MHz")
    return found


def set_power(nvml: Any, handle: Any, milliwatts: int) -> "str | None":
    """Set the power limit in mW; what went wrong in words, None when it reads back."""
    nvml.nvmlDeviceSetPowerManagementLimit(handle, milliwatts)
    there = nvml.nvmlDeviceGetPowerManagementLimit(handle)
    if abs(there - milliwatts) < 1000:
        return None
    return f"power limit: the driver accepted {milliwatts / 1000:g} W, and reads {there / 1000:g} W"


def lock_clocks(nvml: Any, handle: Any, least: int, most: int) -> "str | None":
    """Lock the clocks, in MHz; what went wrong in words, None when nothing contradicts it."""
    nvml.nvmlDeviceSetGpuLockedClocks(handle, least, most)
    deadline = time.monotonic() + SETTLE_S
    while True:
        clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_GRAPHICS)
        if clock <= most + STEP_MHZ:
            return None
        if time.monotonic() > deadline:
            return f"locked clocks: the driver accepted {most} MHz, and it runs at {clock} MHz"
        time.sleep(0.2)


def change(nvml: Any, handle: Any, wanted: "dict[str, Any]", had: "dict[str, Any]") -> "list[str]":
    """Bring one card from what it `had` of us to what is `wanted`; what went wrong, in words."""
    faults: list[str | None] = []
    try:
        if wanted.get("power_limit") is not None:
            faults.append(set_power(nvml, handle, wanted["power_limit"] * 1000))
        elif had.get("power_limit") is not None:
            default = nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)
            faults.append(set_power(nvml, handle, default))
        if wanted.get("locked_clocks"):
            faults.append(lock_clocks(nvml, handle, *wanted["locked_clocks"]))
        elif had.get("locked_clocks"):
            nvml.nvmlDeviceResetGpuLockedClocks(handle)
    except nvml.NVMLError as error:
        faults.append(str(error))
    return [one for one in faults if one]


def _remember(applied: Wanted) -> None:
    path = Path(nvidia.APPLIED)
    if not applied:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps(applied))
    temporary.replace(path)


def bring_one(
    nvml: Any, handle: Any, new: "dict[str, Any]", old: "dict[str, Any]"
) -> "tuple[dict[str, Any], list[str]]":
    """(what of ours is on the card afterwards, what went wrong)."""
    try:
        wrong = out_of_range(new, nvidia.describe(nvml, handle))
    except nvml.NVMLError as error:
        return old, [str(error)]
    if wrong:
        return old, wrong
    wrong = change(nvml, handle, new, old)
    # One that could not be taken back stays ours.
    return (new or old if wrong else new), wrong


def bring(nvml: Any, wanted: Wanted, had: Wanted) -> "tuple[Wanted, list[str]]":
    """(what is set afterwards, what went wrong). A card that fails does not keep the others."""
    by_uuid, lost = nvidia.handles(nvml)
    applied: Wanted = {}
    faults: list[str] = []
    for uuid in [*wanted, *(one for one in had if one not in wanted)]:
        new, old = wanted.get(uuid, {}), had.get(uuid, {})
        if uuid in by_uuid:
            state, wrong = bring_one(nvml, by_uuid[uuid], new, old)
            applied |= {uuid: state} if state else {}
        else:  # one that was ours, and is gone, needs nothing taken back
            wrong = ["; ".join(["the driver lists no such GPU", *lost])] if new else []
        faults += [f"{(new or old)['handle']} ({uuid}): {words}" for words in wrong]
    return applied, faults


def apply(wanted: Wanted) -> None:
    """Set what is `wanted` on each card, by UUID. Raises SystemExit with all that went wrong."""
    nvml, had = nvidia.bindings(), nvidia.load(nvidia.APPLIED)
    if not wanted and not had:
        return
    if nvml is None:
        raise SystemExit("nvidia-ml-py is not installed with the programs aboard")
    if os.geteuid():
        raise SystemExit("only root may set anything on a GPU")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if not wanted:  # without a driver nothing of it is left
            _remember({})
            return
        mismatch = error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        raise SystemExit(f"NVML: {error}" + (": reboot the node" if mismatch else "")) from None
    try:
        applied, faults = bring(nvml, wanted, had)
    finally:
        nvml.nvmlShutdown()
    _remember(applied)
    if faults:
        raise SystemExit("\n".join(faults))

"""NVML without a library: the bindings' own names and errors over cards in memory.

What the lab's simulated library does in C, for the tests that need no machine.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

LEFT = "GPU-11111111-2222-3333-4444-555555555555"
RIGHT = "GPU-99999999-2222-3333-4444-555555555555"


@dataclass
class FakeCard:
    """One card; `fails` maps a function's name to the code that it raises."""

    uuid: str
    power: int = 250_000
    lock: tuple[int, int] | None = None
    busy: bool = False
    silent: bool = False
    persistence: int = 1
    fails: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """Stands in for the module pynvml, with only what is asked of it."""

    def __init__(self, *cards: FakeCard, init: int = 0) -> None:
        self.cards = list(cards)
        self.init = init
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)
        method = getattr(type(self), f"_{name.removeprefix('nvml')}", None)
        if method is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

        def call(*arguments: Any) -> Any:
            for card in arguments[:1]:
                if isinstance(card, FakeCard) and name in card.fails:
                    raise pynvml.NVMLError(card.fails[name])
            return method(self, *arguments)

        return call

    def _Init(self) -> None:
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def _Shutdown(self) -> None:
        self.open -= 1

    def _SystemGetDriverVersion(self) -> str:
        return "550.163.01"

    def _SystemGetNVMLVersion(self) -> str:
        return "12.550.163.01"

    def _DeviceGetCount(self) -> int:
        return len(self.cards)

    def _DeviceGetHandleByIndex(self, index: int) -> FakeCard:
        code = self.cards[index].fails.get("nvmlDeviceGetHandleByIndex")
        if code:
            raise pynvml.NVMLError(code)
        return self.cards[index]

    def _DeviceGetUUID(self, card: FakeCard) -> str:
        return card.uuid

    def _DeviceGetName(self, card: FakeCard) -> str:
        return "NVIDIA GeForce RTX 2080 Ti"

    def _DeviceGetPciInfo(self, card: FakeCard) -> Any:
        return SimpleNamespace(busId="00000000:0A:00.0")

    def _DeviceGetPersistenceMode(self, card: FakeCard) -> int:
        return card.persistence

    def _DeviceGetPowerManagementLimitConstraints(self, card: FakeCard) -> list[int]:
        return [100_000, 280_000]

    def _DeviceGetPowerManagementLimit(self, card: FakeCard) -> int:
        return card.power

    def _DeviceGetPowerManagementDefaultLimit(self, card: FakeCard) -> int:
        return 250_000

    def _DeviceSetPowerManagementLimit(self, card: FakeCard, milliwatts: int) -> None:
        card.power = card.power if card.silent else milliwatts

    def _DeviceGetClockInfo(self, card: FakeCard, kind: int) -> int:
        return (card.lock or (0, 2100))[1] if card.busy else 300

    def _DeviceGetMaxClockInfo(self, card: FakeCard, kind: int) -> int:
        return 2100

    def _DeviceSetGpuLockedClocks(self, card: FakeCard, least: int, most: int) -> None:
        card.lock = card.lock if card.silent else (least, most)

    def _DeviceResetGpuLockedClocks(self, card: FakeCard) -> None:
        card.lock = card.lock if card.silent else None

    def _DeviceGetMemoryInfo(self, card: FakeCard) -> Any:
        return SimpleNamespace(total=11264 << 20, used=512 << 20)

    def _DeviceGetTemperature(self, card: FakeCard, sensor: int) -> int:
        return 41

    def _DeviceGetCurrentClocksEventReasons(self, card: FakeCard) -> int:
        return 0x4 | 0x80

    def _DeviceGetComputeRunningProcesses(self, card: FakeCard) -> list[Any]:
        return [SimpleNamespace(pid=42, usedGpuMemory=256 << 20)]

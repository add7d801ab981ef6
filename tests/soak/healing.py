"""What the next converge must make of an interrupted one: what a first would have made.

Strict in each case: one converge after the interruption ends well; the node is then what an
undisturbed first converge leaves; the checks pass; one more changes nothing; nothing is lost, and
no byte of a model was fetched twice.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from homeport.alive import PEER_TIMEOUT
from homeport.inventory import unbound
from homeport.lab import desk
from homeport.lab.driver import Driver
from homeport.lab.stage import hub_root, stage
from tests.lab.iona import Hub, Iona
from tests.lab.left import Left
from tests.soak.interruption import Hit, interrupt
from tests.soak.moments import Moment

INVENTORY = Path("inventory/iona.py")
ATTEMPTS = 3
# What a container has behind it when it works: it was made, it runs, it is healthy.
STEPS = 3
ADMIN = "/api/v1/auths/admin/config"
# Bytes per second of the lab's Hub while a download is to be met: seconds instead of a blink.
PACE = 9 << 20
# Bytes that a connection swallows when it is cut: sent by the Hub, never read.
SWALLOWED = 8 << 20


def _sizes(root: Path) -> list[int]:
    """The sizes in bytes of the models below `root`."""
    return [path.stat().st_size for path in root.rglob("*.gguf")]


def _whole(moment: Moment, wanted: Left, download: Path) -> int:
    """How much the stage of `moment` has to do, as the watcher counts it.

    `download` holds the model that is fetched; an update makes the engine's container alone anew.
    """
    if moment.stage == "apt":
        return wanted.packaged
    if moment.stage == "download":
        return max(_sizes(download))
    return STEPS * (wanted.containers if moment.on == "bare" else 1)


@dataclass(kw_only=True, slots=True)
class Case:
    """One case that passed, small enough for a line of the results."""

    seed: int
    on: str
    stage: str
    way: str
    at: float
    hit: str
    ended_s: float
    went_on: bool
    healed_s: float


def case(hit: Hit, healed_s: float) -> Case:
    """The result of `hit` and of the `healed_s` seconds of the converge after it."""
    return Case(
        seed=hit.moment.number,
        on=hit.moment.on,
        stage=hit.moment.stage,
        way=hit.moment.way,
        at=round(hit.at, 2),
        hit=f"{hit.seen}; {hit.detail}",
        ended_s=round(hit.ended_s, 1),
        went_on=bool(hit.went_on),
        healed_s=round(healed_s, 1),
    )


def _meet(iona: Iona, moment: Moment, whole: int, patience: int) -> Hit | None:
    """Interrupt a converge of `iona` at `moment`; the Hub is slow for as long as it is needed."""
    paced = {"*": {"bytes_per_s": PACE}} if moment.stage == "download" else {}
    iona.hub.faults(paced)
    try:
        return interrupt(iona.stage, moment, whole, patience)
    finally:
        iona.hub.faults({})


def _secrets(machine: Driver) -> dict[str, str]:
    """The secrets that the node has by now."""
    read = "cd /etc/homeport/secrets 2>/dev/null && head -c 1000 -v -- * || true"
    text = machine.succeed(read)
    return dict(re.findall(r"==> (\S+) <==\n(.*)", text))


def heal(iona: Iona, hits: list[Hit], wanted: Left) -> float:
    """Converge once, after `hits`: seconds that it took. Fails unless all is as it must be."""
    kept = _secrets(iona.machine)
    began = time.monotonic()
    iona.converge()
    seconds = time.monotonic() - began
    what = "; ".join(hit.line() for hit in hits)
    much, little = wanted.differs(iona.machine)
    assert not much + little, f"{what}: too much: {much}; missing: {little}"
    later = _secrets(iona.machine)
    assert kept.items() <= later.items(), f"{what}: a secret was made anew"
    assert len(later) == 3
    done = desk.homeport(iona.stage, "verify", str(INVENTORY))
    assert done.returncode == 0, f"{what}: {done.stderr[-3000:]}"
    before = iona.containers()
    again = iona.converge()
    assert again["changed"] == 0, f"{what}: one more converge changed {again['hosts']}"
    assert iona.pending() == []
    assert iona.containers() == before
    return seconds


def first_heals(
    moments: list[Moment], wanted: Left, patience: int = PEER_TIMEOUT
) -> tuple[list[Hit], float]:
    """Build Iona on a bare machine, interrupted at each of `moments` in turn, and heal it.

    What was hit, and the seconds of the converge that healed. A stage that was over before its
    moment came is no case: then it is done again on another machine, with an earlier moment.
    """
    for _ in range(ATTEMPTS):
        with stage(INVENTORY) as on:
            # Its Hub serves what is in the cache, and nothing is published there.
            root = hub_root(unbound(INVENTORY))
            iona = Iona(on, Hub(on.sources.hub, on.sources.authority.certificate, root))
            iona.lock()
            hits = [_meet(iona, one, _whole(one, wanted, root), patience) for one in moments]
            if found := [hit for hit in hits if hit is not None]:
                missed = [one for one, hit in zip(moments, hits, strict=True) if hit is None]
                if not missed:
                    seconds = heal(iona, found, wanted)
                    sent, needed = iona.hub.sent(), sum(_sizes(root))
                    most = needed + SWALLOWED * len(found)
                    assert needed <= sent <= most, f"{sent} bytes sent: {iona.hub.ranges()}"
                    return found, seconds
        moments = [
            one.earlier() if hit is None else one for one, hit in zip(moments, hits, strict=True)
        ]
    raise AssertionError(f"a stage was over before its moment, {ATTEMPTS} times: {moments}")


def update_heals(
    iona: Iona,
    moment: Moment,
    folder: Path,
    wanted: Left,
    patience: int = PEER_TIMEOUT,
) -> tuple[Hit, float]:
    """Bring a new commit of the model to `iona`, which serves, interrupted at `moment`; heal it.

    What the users have there survives, and the old model serves while the new one is fetched.
    `folder` is for the new commit's files.
    """
    token = iona.sign_in()
    settings = iona.get(token, ADMIN)
    ours = not settings["ENABLE_MESSAGE_RATING"]
    sendable = {k: v for k, v in settings.items() if v is not None and "MFA" not in k}
    iona.post(token, ADMIN, {**sendable, "ENABLE_MESSAGE_RATING": ours})
    for _ in range(ATTEMPTS):
        commit = iona.publish(folder)
        iona.hub.forget()
        hit = _meet(iona, moment, _whole(moment, wanted, folder), patience)
        if hit is None:
            moment = moment.earlier()
            continue
        if moment.stage == "download":
            assert iona.answers() == 200, "the old model no longer serves"
        seconds = heal(iona, [hit], wanted)
        needed = max(_sizes(folder))
        sent = iona.hub.sent()
        assert needed <= sent <= needed + SWALLOWED, f"{sent} bytes sent: {iona.hub.ranges()}"
        assert iona.get(token, ADMIN)["ENABLE_MESSAGE_RATING"] is ours
        assert iona.answers() == 200
        label = iona.container("llama-server")["Config"]["Labels"]["homeport.model.commit"]
        assert label == commit
        return hit, seconds
    raise AssertionError(f"the stage was over before its moment, {ATTEMPTS} times: {moment}")

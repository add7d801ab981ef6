"""What the figures must show, held against what they do. No I/O."""

from collections.abc import Iterator, Sequence
from typing import Any

Result = dict[str, Any]

# The most that Homeport may take of what each rival takes, over the workload "150" at 20 ms.
OF_RIVALS = {"ansible+mitogen": 1 / 10, "pyinfra": 1 / 15, "ansible": 1 / 40}
OF_FLOOR = 1.6
ROUND_TRIPS = 15
IONA_S = 2.0
FLEET_HOSTS, FLEET_S = 100, 40.0
FAR_MS = 20


def _median(results: Sequence[Result], tool: str, workload: str, rtt: int) -> float | None:
    for one in results:
        if (one["tool"], one["workload"], one["rtt_ms"]) == (tool, workload, rtt):
            return float(one["median_s"])
    return None


def ratios(results: Sequence[Result]) -> list[Result]:
    """[{"workload", "rtt_ms", "tool", "ratio": Homeport's median over the tool's, "times": how
    many times Homeport's the tool's is}]."""
    found = []
    for one in results:
        ours = _median(results, "homeport", one["workload"], one["rtt_ms"])
        if one["tool"] == "homeport" or not ours:
            continue
        found.append(
            {
                "workload": one["workload"],
                "rtt_ms": one["rtt_ms"],
                "tool": one["tool"],
                "ratio": round(ours / one["median_s"], 4),
                "times": round(one["median_s"] / ours, 1),
            }
        )
    return found


def growths(results: Sequence[Result]) -> list[Result]:
    """[{"tool", "workload", "seconds": from the nearest to the farthest, "round_trips": of the
    difference}]."""
    found = []
    for tool, workload in dict.fromkeys((one["tool"], one["workload"]) for one in results):
        mine = [one for one in results if (one["tool"], one["workload"]) == (tool, workload)]
        near, far = (pick(mine, key=lambda one: one["rtt_ms"]) for pick in (min, max))
        apart = far["rtt_ms"] - near["rtt_ms"]
        if apart:
            seconds = far["median_s"] - near["median_s"]
            trips = round(seconds * 1000 / apart, 1)
            found.append(
                {
                    "tool": tool,
                    "workload": workload,
                    "seconds": round(seconds, 3),
                    "round_trips": trips,
                }
            )
    return found


def _limit(what: str, limit: float, seen: float) -> Result:
    return {"what": what, "limit": round(limit, 4), "seen": round(seen, 4), "met": seen <= limit}


def _of_rivals(value: Result) -> Iterator[Result]:
    for one in value["ratios"]:
        if one["workload"] == "150" and one["rtt_ms"] == FAR_MS:
            share = OF_RIVALS[one["tool"]]
            yield _limit(f"150 at {FAR_MS} ms: of {one['tool']}'s time", share, one["ratio"])


def _alone(value: Result) -> Iterator[Result]:
    for least in value["floor"]:
        ours = _median(value["results"], "homeport", "150", FAR_MS)
        if ours and (least["workload"], least["rtt_ms"]) == ("150", FAR_MS):
            seen = ours / least["median_s"]
            yield _limit(f"150 at {FAR_MS} ms: times the floor", OF_FLOOR, seen)
    for one in value["results"]:
        if (one["tool"], one["workload"], one["rtt_ms"]) == ("homeport", "150", FAR_MS):
            yield _limit("150: remote commands after the handshake", 1, one["remote_commands"])
    for one in value["growth"]:
        if (one["tool"], one["workload"]) == ("homeport", "150"):
            yield _limit("150: growth in round trips", ROUND_TRIPS, one["round_trips"])
    iona = _median(value["results"], "homeport", "iona", FAR_MS)
    if iona:
        yield _limit(f"iona at {FAR_MS} ms: seconds", IONA_S, iona)


def _of_fleet(value: Result) -> Iterator[Result]:
    for one in value["fleet"]:
        if one["hosts"] == FLEET_HOSTS:
            yield _limit(f"{FLEET_HOSTS} targets of the 150: seconds", FLEET_S, one["median_s"])


def limits(value: Result) -> list[Result]:
    """[{"what", "limit": the most it may be, "seen", "met"}] for all that `value` measured.

    What was not measured is not in the list.
    """
    return [*_of_rivals(value), *_alone(value), *_of_fleet(value)]


def sentence(one: Result) -> str:
    """A limit for people: "met      150: … : 0.08, at most 0.1"."""
    word = "met" if one["met"] else "NOT MET"
    return f"{word:8} {one['what']}: {one['seen']:g}, at most {one['limit']:g}"

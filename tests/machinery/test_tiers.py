"""A tier passes only when each of its commands did, whichever it is; what they said is seen."""

import sys

import pytest

from homeport import tiers
from homeport.lab import LabError, prerequisites
from homeport.lab.vm import emulator

GOOD = (sys.executable, "-c", "print('good said')")
BAD = (sys.executable, "-c", "print('bad said'); raise SystemExit(1)")


@pytest.mark.parametrize(
    ("commands", "alone", "code"),
    [
        ((GOOD, GOOD), (), 0),
        ((BAD, GOOD), (), 1),
        ((GOOD, BAD), (), 1),
        ((BAD,), (), 1),
        ((GOOD,), GOOD, 0),
        ((GOOD,), BAD, 1),
    ],
)
def test_every_command_counts(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    commands: tuple[tuple[str, ...], ...],
    alone: tuple[str, ...],
    code: int,
) -> None:
    tier = tiers.Tier(name="some", commands=commands, alone=alone, budget_minutes=1)
    monkeypatch.setattr(tiers, "TIERS", (tier,))
    assert tiers.run_tiers(()) == code
    said = capfd.readouterr().out
    assert said.count("good said") == (*commands, alone).count(GOOD)
    assert said.count("bad said") == (*commands, alone).count(BAD)


def test_an_unknown_tier_is_refused() -> None:
    assert tiers.run_tiers(("fast",)) == 1


def said(capfd: pytest.CaptureFixture[str]) -> str:
    both = capfd.readouterr()
    return both.out + both.err


def test_a_tier_that_this_host_cannot_carry_fails_only_by_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def elsewhere() -> None:
        raise LabError("this is riscv64")

    tier = tiers.Tier(name="machine", commands=(BAD,), budget_minutes=1)
    monkeypatch.setattr(tiers, "TIERS", (tier,))
    monkeypatch.setattr(prerequisites, "install_lab_packages", lambda: None)
    monkeypatch.setattr(emulator, "require_host", elsewhere)
    assert tiers.run_tiers(()) == 0
    assert "machine: not carried by this machine" in said(capfd)
    assert tiers.run_tiers(("machine",)) == 1
    assert "riscv64" in said(capfd)

"""Tells a webhook what checks find: what is new, once. What that is, is in `homeport/told.py`.

A webhook that does not answer takes no more than `PATIENCE` seconds of a check, and is tried again
after 1, 2, 4 … checks, at least every `RETRY` seconds; so is one that refuses a message, which
keeps no other back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from homeport import report
from homeport.targets import targets_path
from homeport.told import Standing, Told, clean_lines, message, utc
from homeport.webhook import FAULTS, PATIENCE, Webhook, deadline, is_closed, was_taken, words_of

# Seconds after which a webhook that does not answer is tried again at the latest.
RETRY = 900


class Teller:
    """Takes in what checks find and tells the webhook at `address` what is new.

    Raises `SpecError` for a wrong address, `PyinfraError` when another process tells the same
    webhook of the same inventory.
    """

    def __init__(
        self,
        inventory: Path,
        address: str,
        *,
        remedy: str = "",
        every: int = 0,
        patience: float = PATIENCE,
        now: Callable[[], str] = utc,
    ) -> None:
        self.webhook = Webhook(address)
        self.system = inventory.stem
        self.remedy, self.every, self.patience, self.now = remedy, every, patience, now
        paths = [str(path.resolve()) for path in (inventory, targets_path(inventory))]
        self.told = Told(self.system, *paths, address)
        self.failures = 0
        self.to_skip = 0
        self.said: list[str] = []

    def see(self, hosts: list[dict[str, Any]], *, all_of_them: bool = True) -> None:
        """Take in the `hosts` of a `drift --json`; forget all others when these are all."""
        standings, at = self.told.hosts, self.now()
        for host in hosts:
            found = [(one["capability"], one["operation"]) for one in host["drift"]]
            failure = host["failure"]
            words = [failure["operation"], *failure["words"]] if failure else []
            standing = standings.setdefault(host["name"], Standing())
            drift = tuple(found) if host["state"] == "drift" else ()
            standing.see(host["state"], at, drift, clean_lines(words))
        if all_of_them:
            names = {host["name"] for host in hosts}
            self.told.hosts = {name: one for name, one in standings.items() if name in names}
        self._keep()

    def tell(self) -> None:
        """Tell what is new, unless the webhook is given a rest. Never raises for its failures."""
        if self.to_skip:
            self.to_skip -= 1
            return
        failure, is_away = self._send()
        if failure:
            self.said.append(f"{self.webhook.shown} was not told: {failure}")
        if not is_away:
            self.failures = 0
            return
        rest = max(0, RETRY // self.every - 1) if self.every else 0
        self.to_skip = min(2**self.failures - 1, rest)
        self.failures = min(self.failures + 1, 30)

    def say(self) -> None:
        """Print what came of it: later, lest a terminal that is gone keep any from being told."""
        lines, self.said = self.said, []
        for line in lines:
            report.console.print(line, markup=False)

    def _send(self) -> tuple[str, bool]:
        """Send what is new; "" or what went wrong first, and whether the webhook is to be rested.

        A message that is refused keeps no other from being sent; a webhook that is away does.
        """
        news = {n: one for n, one in self.told.hosts.items() if one.seen.news_after(one.told)}
        if not news:
            return "", False
        failure = ""
        try:
            with deadline(self.patience), self.webhook.client() as client:
                for name, standing in news.items():
                    what = message(self.system, name, standing, self.remedy)
                    status = self.webhook.post(client, what)
                    if was_taken(status):
                        standing.told = standing.seen
                        self._keep()  # at once: whatever comes next may end this process
                        self.said.append(f"told: {what['text']}")
                    else:
                        failure = failure or f"{name}: it answered {status}"
                        if is_closed(status):
                            return failure, True
                return failure, False
        except FAULTS as error:
            return words_of(error), True
        return f"it took longer than {self.patience:g} s", True

    def _keep(self) -> None:
        failure = self.told.keep()
        if failure:
            self.said.append(f"{failure}: what was told may be told again")

"""How long a drift check takes: Homeport beside stock pyinfra, Ansible, and Ansible with Mitogen.

All of them look at the same unchanged lab node, in turn within one run, at the same distances, over
the same two workloads: "150" (`mix.py`), and the whole of Iona (`iona.py` for Ansible).
"""

from homeport.lab.bench_drift.measure import WORKLOADS, bench_drift, bench_fleet, print_end

__all__ = ["WORKLOADS", "bench_drift", "bench_fleet", "print_end"]

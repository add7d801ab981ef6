"""How long a drift check takes: Homeport beside stock pyinfra, Ansible, and Ansible with Mitogen.

All of them look at the same unchanged lab node, in turn within one run, at the same distances, over
the same two workloads: "150" (`mix.py`), and the whole of Iona (`iona.py` for Ansible).

Nothing is imported here: pyinfra imports this package, in an environment of its own, for the mix.
"""

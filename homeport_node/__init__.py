"""The small programs that run on the node itself, a module per capability.

Python 3.10 or newer. A module that offers `observe(...)` imports nothing at its top but the
standard library and modules of this package, because `homeport.observe.NodeFact` ships its source,
and theirs, to nodes on which nothing is installed yet.
"""

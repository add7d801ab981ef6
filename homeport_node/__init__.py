"""The small programs that run on the node itself, a module per capability.

Python 3.10 or newer. A module that offers `observe(...)` imports nothing but the standard library
and `homeport_node.common` at its top, because `homeport.observe.NodeFact` ships its source to
nodes on which nothing is installed yet.
"""

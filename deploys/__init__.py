"""How a node is made: one module per capability, `full.py` for the whole."""

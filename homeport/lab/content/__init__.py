"""What the lab's registry and Hub hold: a small real model, and images of the real programs.

Each part is made from packages (Debian's, PyPI's) and is the same for the same recipe, so that a
cache can keep it under `recipe_key()`.
"""

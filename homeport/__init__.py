"""Homeport's machinery: command line, connector, targets, lock, reports; `lab/` for rehearsals."""

__version__ = "0.1.0"

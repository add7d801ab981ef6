"""`python -m homeport_node` is `homeport-node`."""

from homeport_node.cli import main

raise SystemExit(main())

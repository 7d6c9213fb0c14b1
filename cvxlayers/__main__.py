"""``python -m cvxlayers`` is the command ``cvxlayers``."""

from __future__ import annotations

from cvxlayers.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()

"""`python -m training …`: train a network, judge a model, better the labels, turn faces."""

from __future__ import annotations

import sys

from tabrt.errors import TabrtError
from training.commands import app


def main() -> None:
    try:
        app(prog_name="python -m training")
    except TabrtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""`python -m tabrt` is `tabrt`."""

from tabrt.cli import main

if __name__ == "__main__":
    main()

"""`python -m polykit` is the command `polykit`."""

from polykit.cli import main

if __name__ == "__main__":
    main()

"""The command `fute`, and `python -m fute`."""

import sys


def main() -> None:
    """Run the command; an interrupt while it is still being imported ends it without a traceback, too."""
    try:
        from fute.cli.main import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

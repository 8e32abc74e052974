"""``python -m med_transfer`` is ``med-transfer``, which begins here: Ctrl-C says nothing while the commands load."""

import sys


def main() -> None:
    """Entry point."""
    try:
        from med_transfer.cli.app import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)  # INTERRUPTED of cli/app.py, which is not there yet
    command_line()


if __name__ == "__main__":
    main()

"""The command line as ``python -m dynalens``, where the folder of scripts is not on the path."""

from dynalens.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

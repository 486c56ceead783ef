"""`python -m fedsim` is `fedsim`."""

from fedsim.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m biofuse``."""

from biofuse.cli import main

if __name__ == "__main__":
    main()

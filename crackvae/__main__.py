"""`python -m crackvae VERB`, the same as the command `crackvae VERB`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`ray job submit --working-dir . -- python jobs/compact.py ...` is the same as `crackvae compact ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["compact", *sys.argv[1:]]))

"""`ray job submit --working-dir . -- python jobs/learn.py ...` is the same as `crackvae learn ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["learn", *sys.argv[1:]]))

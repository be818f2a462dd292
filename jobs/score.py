"""`ray job submit --working-dir . -- python jobs/score.py ...` is the same as `crackvae score ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))

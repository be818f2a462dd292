"""`ray job submit --working-dir . -- python jobs/report.py ...` is the same as `crackvae report ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

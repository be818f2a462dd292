"""`ray job submit --working-dir . -- python jobs/findings.py ...` is the same as `crackvae findings ...`."""

import sys

from crackvae.cli import main

if __name__ == "__main__":
    sys.exit(main(["findings", *sys.argv[1:]]))

"""Train and evaluate the candidate detector: `python benchmarks/concrete/run.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Import `concrete` as a package, and `record` beside it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from concrete.experiment import main

    main()

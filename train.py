"""Train and score one run, or a sweep of runs with -m; --help tells more."""

import sys

from metrad.app.cli import train

if __name__ == "__main__":
    train(sys.argv[1:])

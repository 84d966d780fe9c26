"""Lets `python -m pgcat_cluster` be the command `pgcat-cluster`."""

from pgcat_cluster.cli import main

if __name__ == "__main__":
    main()

"""The report of a laboratory run: pruning against its three controls, in worlds of known truth."""

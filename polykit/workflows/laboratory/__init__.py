"""The ground-truth laboratory: does pruning change polysemanticity where features are known.

Each world (scenario × seed) has its own data and its own network. A dense network is trained, then
pruned to each ratio and retrained, beside three controls: retrained without pruning (`unpruned`),
the same widths from random units (`random`), and the same widths trained afresh (`scratch`).
"""

"""Dissection: for each cluster of a unit, the part of the network that carries it, and controls.

A mask over many weights can be trained to tell nearly anything apart, so that separation alone
proves nothing. Each cluster's part is measured beside the same cluster in other units, in a network
with random weights, and with shuffled labels.
"""

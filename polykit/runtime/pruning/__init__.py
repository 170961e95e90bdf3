"""What can be taken out of a network, by masks or by making it smaller, and what is left."""

"""What a unit responds to: clusters of pictures, how far to believe them, how to show them."""

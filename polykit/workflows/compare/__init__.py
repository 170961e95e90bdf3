"""Two networks beside each other: what lies between them, and how alike they are."""

"""Two networks beside each other: symmetries, matching, the path between them, likeness."""

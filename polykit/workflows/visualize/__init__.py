"""Pictures of units: grown to raise them, and with the pixels that made their value."""

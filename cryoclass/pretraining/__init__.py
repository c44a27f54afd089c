"""A start of our own: networks that learn shape from species without end, before they see a label."""

"""STAR files: text that survives a round trip, dialects, tomogram tables, the External-job protocol."""

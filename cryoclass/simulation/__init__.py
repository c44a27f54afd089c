"""Tomograms and particles of known content: phantoms or the user's maps, optics, missing wedge, noise."""

"""What can be known before any GPU minute: checks of STAR, tomograms, model and machine, each in words."""

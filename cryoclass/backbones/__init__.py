"""Networks without head, and their pretrained weights. One file per family, one line each in the registry."""

"""From raw voxels to class, probability and embedding: two engines, one pipeline."""

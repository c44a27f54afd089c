"""Volumes: MRC files in and out, and what is done to a box of voxels before any network sees it."""

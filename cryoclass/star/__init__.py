"""STAR files: text that survives a round trip, dialects, tomogram tables, the External-job protocol.

The doors: :mod:`~cryoclass.star.particle_file` (tables of particles, in and out), :mod:`~cryoclass.star.extracted` (out,
with new boxes), :mod:`~cryoclass.star.tomogram_list` (in), :mod:`~cryoclass.star.tables` (new tables of our own, out). They
hand out values; the text itself (``document``, ``rows``, ``dialects``) stays in this room.
"""

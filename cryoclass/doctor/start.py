"""The checks that ``extract``, ``finetune``, ``predict`` and ``embed`` start with: those that read no voxels."""

from pathlib import Path

from cryoclass.cutting import TomogramSource
from cryoclass.doctor.disk import check_disk, extraction_bytes
from cryoclass.doctor.findings import Finding, warning
from cryoclass.doctor.inside import check_inside, refuse_wrong_frame
from cryoclass.doctor.rules import broken_rules
from cryoclass.images import FileSource


def check_start(source: FileSource | TomogramSource, writes_to: Path | None = None) -> list[Finding]:
    """Return what is worth a warning before the work starts.

    Parameters
    ----------
    source
        The boxes.
    writes_to
        The folder that shall receive them as files, if they shall be written.

    Raises
    ------
    ParticleError
        Most boxes would lie outside their tomograms.
    """
    findings = broken_rules(source.particles)
    if isinstance(source, TomogramSource):
        outside = sum(counts.boxes_outside for counts in refuse_wrong_frame(source))
        if outside:
            words = f"{outside} of {len(source)} boxes lie outside their tomograms and will be skipped"
            findings.append(warning("inside", words))
        else:
            findings += [finding for finding in check_inside(source) if finding.level != "ok"]
        if writes_to is not None:
            needed = extraction_bytes(len(source.order), source.settings)
            findings += [finding for finding in check_disk(writes_to, needed) if finding.level != "ok"]
    return findings

"""``cryoclass embed``: what the network sees, as a map."""

from typing import TYPE_CHECKING

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.embed import EmbedRequest

if TYPE_CHECKING:
    from cryoclass.steadiness import Study


@with_request
def embed(request: EmbedRequest) -> None:
    """Show particles as a network sees them; no label is needed.

    Writes the embedding (embeddings.npy, in the order of the STAR file), a map of it as a picture and as a page, and
    your STAR file with map and cluster columns added. With --query or --like, also ranked.star: your rows, those most
    like the examples first. Without a model, the network that comes with cryoclass looks. What it saw is kept in outputs/:
    other clusters or examples, with --overwrite, then take no second pass.

    Clusters come with what speaks for them (clusters.csv, and the page): whether they come back when particles are left
    out, how many stand out, and whether other ways to group agree. --clusters auto takes the number that stands out.

    Example: cryoclass embed particles.star --clusters auto

    Example: cryoclass embed particles.star --like 12 --like 40
    """
    result = jobs.embed(request, console.Heard())
    if result.clusters is not None:
        _say_clusters(result.clusters)
    count, width = result.shape
    console.rows(
        "embedded",
        [
            ("particles", f"{len(result.rows)} of {count}"),
            ("embedding", f"{result.embedding}, {width} numbers per particle"),
            ("table", result.table),
            *([("most alike first", result.ranked)] if result.ranked else []),
            ("look at", f"{result.page}, {result.picture}"),
        ],
    )


def _say_clusters(clusters: "Study") -> None:
    by = clusters.method
    console.columns(
        f"clusters (by {by}; measured on {clusters.particles} particles)",
        ["by", "clusters", "stability", "silhouette", f"agreement with {by}"],
        [
            [
                method,
                tried.number,
                tried.stability or "-",
                "-" if tried.silhouette is None else f"{tried.silhouette:.2f}",
                "-" if method == by else clusters.agreement(by, method),
            ]
            for method, tried in clusters.measured.items()
        ],
    )

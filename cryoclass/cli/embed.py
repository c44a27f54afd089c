"""``cryoclass embed``: what the network sees, as a map."""

from cryoclass import jobs
from cryoclass.cli import console
from cryoclass.cli.options import with_request
from cryoclass.jobs.embed import EmbedRequest


@with_request
def embed(request: EmbedRequest) -> None:
    """Show particles as a network sees them; no label is needed.

    Writes the embedding (embeddings.npy, in the order of the STAR file), a map of it as a picture and as a page, and
    your STAR file with map and cluster columns added. With --query or --like, also ranked.star: your rows, those most
    like the examples first. Without a model, the network that comes with cryoclass looks. What it saw is kept in outputs/:
    other clusters or examples, with --overwrite, then take no second pass.

    Example: cryoclass embed particles.star --clusters 6

    Example: cryoclass embed particles.star --like 12 --like 40
    """
    result = jobs.embed(request, console.Heard())
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

"""Amazon Grocery: 8,713 items, 121,892 reviews of 14,681 users, and what else was bought or viewed.

199,576 unordered pairs of items are also bought (complements) and 90,946 also viewed (substitutes);
58,190 are both.

Source: McAuley, Pandey and Leskovec, "Inferring Networks of Substitutable and Complementary
Products", KDD 2015, arXiv:1506.08839; files as in ReChorus (Wang et al.).
"""

from pathlib import Path

from recemb.data.complements import Complements, Sources
from recemb.data.files import find_raw
from recemb.data.pair_sources import Baskets, Relations
from recemb.data.synthetic_pairs import Synthetic

DAY = 86_400


class Grocery(Complements):
    """The pairs of Amazon Grocery, prepared on first use into the cache folder.

    Args:
        sources: Where training pairs come from: ``relations`` (also bought), ``baskets`` (what a
            user reviewed within ``window`` reviews and ``days``), or ``both``.
        window: Reviews of a user so many apart at most are a pair.
        days: Nor are reviews that are more days apart; 0: those of one day.
        exclusive: Whether substitutes are what is also viewed and not also bought.
        synthetic: Whether items without pairs get those of items with reviewers in common.
        num_similar: Of such items, so many lend their pairs.
        num_pairs: Synthetic pairs of an item at most.
        batch_size: Pairs per training batch.
        eval_batch_size: Pairs per batch of the other stages.
        seed: Of the order of the training pairs.
    """

    def __init__(
        self,
        *,
        sources: Sources = "relations",
        window: int = 5,
        days: int = 0,
        exclusive: bool = False,
        synthetic: bool = True,
        num_similar: int = 10,
        num_pairs: int = 20,
        batch_size: int = 4096,
        eval_batch_size: int = 65_536,
        seed: int = 1,
    ) -> None:
        alike = Synthetic(
            columns=["i_category"], baskets=True, num_similar=num_similar, num_pairs=num_pairs
        )
        super().__init__(
            baskets=Baskets(
                path="grocery/train.parquet",
                basket="user_id",
                item="item_id",
                time="time",
                window=window,
                longest=days * DAY,
                directions="both",
            ),
            relations=Relations(
                path="grocery/item_meta.parquet",
                item="item_id",
                complements="r_complement",
                substitutes="r_substitute",
            ),
            sources=sources,
            exclusive=exclusive,
            synthetic=alike if synthetic else None,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        find_raw(Path("grocery"), ("train.parquet", "item_meta.parquet"), "Grocery")
        super().prepare_data()

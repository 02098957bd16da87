"""Part of the contract of table kinds: bytes are those of what is stored, and budgets are met."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from recemb.accounting import table_report
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import ResolvedFeature
from recemb.tables.kind import TableConfig
from recemb.tables.registry import table_config
from tests.tables.case import Case
from tests.tables.helpers import SPACES, as_tensor, embeddings, feature, ids, space_of

DIM = 32
PLAIN = (SPACES["users"] + SPACES["items"]) * DIM * 4
BIG = [space_of("users"), space_of("items")]
SHARES = (0.5, 0.1, 0.03)


def big_features(lookups: int) -> list[ResolvedFeature]:
    """Return features of the two large id spaces."""
    spaces = {"who": "users", "one": "items"}
    return [feature(name, "ads", space=one, lookups=lookups) for name, one in spaces.items()]


def saved_bytes(module: Embeddings) -> int:
    """Return the bytes of the tensors in the file that a state dict is saved to."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    return sum(one.numel() * one.element_size() for one in loaded.values())


class BytesContract(Case):
    """Counted bytes against saved ones, and budgets against both."""

    too_small: Sequence[float] = ()
    """Those of :data:`SHARES` that the kind cannot be as small as, with these id spaces."""
    is_fine: bool = True
    """Whether sizes are so many that a budget is met within 1 %."""

    def budget_settings(self) -> Mapping[str, Any]:
        """Return settings for large tables with no size given."""
        settings = {**self.settings, "dim": DIM}
        settings.pop(table_config("ads", self.settings).searched, None)
        return {**settings, "dim": DIM}

    def bytes_of(self, module: Embeddings) -> int:
        """Return the bytes that a module serves, where they depend on its state."""
        return self.served_bytes

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return the configurations that are next to a solved one, or all that are larger."""
        size = getattr(config, config.searched)
        return [replace(config, **{config.searched: size + 1})]

    # What is stored

    reported: Mapping[str, float] = {}
    """What the kind reports of a prepared table beside its size."""

    def test_report_counts_what_is_served(self, module: Embeddings) -> None:
        assert table_report(module)["ads"] == {
            "kind": self.settings["kind"],
            "num_rows": self.num_rows,
            "dim": self.settings["dim"],
            "bytes": self.bytes_of(module),
            **self.reported,
        }

    def test_bytes_are_those_of_the_file(self, module: Embeddings, tmp_path: Path) -> None:
        served = module.served()
        wanted = self.bytes_of(module)
        assert saved_bytes(served) == wanted
        torch.save(served.state_dict(), tmp_path / "served.pt")
        # A zip entry of under 1 kB for each storage and for a few small records.
        size = (tmp_path / "served.pt").stat().st_size
        assert wanted < size < wanted + 1000 * (6 + len(served.state_dict()))

    def test_bytes_are_known_before_anything_is_stored(self, module: Embeddings) -> None:
        config, spaces = module.served().tables["ads"], module.spaces["ads"]
        assert config.serving_bytes("ads", spaces, self.lookups) == self.bytes_of(module)

    # Saving

    def test_state_dict_round_trip(self, config: TableConfig, module: Embeddings) -> None:
        other = embeddings({"ads": config}, self.features(), seed=2)
        batch = self.asked([0, 7, 49], [[3, 3], []], [19])
        keep = as_tensor(module.eval()(batch)["one"])
        assert not torch.equal(as_tensor(other.eval()(batch)["one"]), keep)
        other.load_state_dict(module.state_dict())
        for name in ("one", "who", "mean"):
            wanted = as_tensor(module(batch)[name])
            assert torch.equal(as_tensor(other(batch)[name]), wanted)

    def test_vectors_start_in_the_scale(self) -> None:
        deviations = []
        for scale in (0.5, 0.05):
            config = table_config("ads", {**self.settings, "init_scale": scale})
            module = self.prepared(embeddings({"ads": config}, self.features())).eval()
            vectors = as_tensor(module(self.asked(list(range(50))))["one"]).detach()
            # U(-a, a) has deviation a / sqrt(3); sums of rows and projections are near it.
            deviation = float(vectors[vectors != 0].std()) / (scale / 3**0.5)
            deviations.append(deviation)
        assert all(0.35 < one < 2.5 for one in deviations), deviations

    # Budgets

    @pytest.mark.parametrize("share", SHARES)
    def test_a_share_is_met(self, share: float) -> None:
        config = table_config("ads", {**self.budget_settings(), "share": share})
        target = int(PLAIN * Fraction(str(share)))
        if share in self.too_small:
            with pytest.raises(RecembError, match=r"^table 'ads': kind .* cannot be smaller than"):
                config.solve("table 'ads'", BIG, self.lookups)
            return
        module = self.prepared(embeddings({"ads": config}, big_features(self.lookups)))
        solved = module.tables["ads"]
        assert (solved.share, solved.budget) == (None, None)
        promised = solved.serving_bytes("table 'ads'", BIG, self.lookups)
        assert promised <= target
        saved = saved_bytes(module.served())
        assert saved <= promised
        if self.is_fine:
            assert saved >= 0.99 * target
        for larger in self.larger(solved):
            assert larger.serving_bytes("table 'ads'", BIG, self.lookups) > target, larger
        # It works.
        vectors = module.eval()({"who": ids([0, 2999]), "one": ids([4999])})
        assert as_tensor(vectors["who"]).isfinite().all()

    def test_a_budget_is_a_share_in_bytes(self) -> None:
        settings = self.budget_settings()
        where = "table 'ads'"
        solved = table_config("ads", {**settings, "share": 0.5}).solve(where, BIG, self.lookups)
        for budget in (PLAIN // 2, f"{PLAIN / 2000} kB", "0.512 MB"):
            config = table_config("ads", {**settings, "budget": budget})
            assert config.solve(where, BIG, self.lookups) == solved

    def test_too_small_a_budget_is_refused_with_one_that_works(self) -> None:
        settings = self.budget_settings()
        where = "table 'ads'"
        config = table_config("ads", {**settings, "budget": 1})
        with pytest.raises(RecembError) as refused:
            config.solve(where, BIG, self.lookups)
        message = str(refused.value)
        assert message.startswith(f"table 'ads': kind {settings['kind']} cannot be smaller than ")
        assert "got a budget of 1; give it at least " in message
        found = re.search(r"give it at least (\d+)", message)
        assert found
        least = int(found[1])
        assert f"{least:,} bytes" in message
        solved = table_config("ads", {**settings, "budget": least}).solve(where, BIG, self.lookups)
        assert solved.serving_bytes(where, BIG, self.lookups) == least
        with pytest.raises(RecembError, match=rf"got a budget of {least - 1:,}; give it at "):
            table_config("ads", {**settings, "budget": least - 1}).solve(where, BIG, self.lookups)

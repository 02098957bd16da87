"""OptEmbed: thresholds of rows in training, then an evolution of widths without any."""

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from tqdm import tqdm

from recemb.command_line.search.masked import MaskedSearch
from recemb.command_line.search.stages import Form, Found, Section
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.files import read_json, whole_file
from recemb.memory import human_bytes
from recemb.search.evolution import Evolution, EvolutionSettings, Widths, affordable, filled
from recemb.search.optembed import thresholds_of
from recemb.search.supernet import Searched, other_bytes, thresholded, thresholded_tables
from recemb.search.within_budget import Keep
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig


class OptEmbed(MaskedSearch):
    """Thresholds of rows in training, then an evolution of widths."""

    callback = "recemb.search.optembed.OptEmbed"
    learned = "thresholds"
    forms = ("dense",)
    needs_budget = False

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table with thresholds."""
        return thresholded(name, config, spaces)

    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the settings of the thresholds' steps."""
        return {
            "learning_rate": self.options.threshold_learning_rate,
            "alpha": self.options.alpha,
            "widest": self.widest(embeddings),
        }

    def searched_tables(self) -> dict[str, Searched]:
        """Return the rows above their thresholds."""
        return thresholded_tables(self.embeddings)

    def find(self, form: Form) -> Found:
        """Evolve widths; a folder's evolution goes on after the last round that it has saved."""
        path = self.folder / "evolution.json"
        widest = self.widest(self.embeddings)
        evolution = Evolution(
            [widest[name] for name in self.searched],
            EvolutionSettings(rounds=self.options.rounds),
            self.config["seed_everything"],
            self.fitting if self.budget is not None else lambda widths, _: widths,
        )
        if path.is_file():
            saved = read_json(path, "state of the evolution")
            evolution.round = saved["round"]
            evolution.scores = {tuple(widths): score for widths, score in saved["scores"]}
        rounds = self.options.rounds + 1
        with tqdm(desc="evolution", total=rounds, initial=evolution.round) as bar:
            while not evolution.is_over:
                evolution.step(self.fitness)
                best = evolution.fittest()[0]
                with whole_file(path) as temporary:
                    state = {"round": evolution.round, "scores": list(evolution.scores.items())}
                    temporary.write_text(json.dumps(state))
                bar.set_postfix_str(
                    f"{self.monitor.metric} {self.value_of(evolution.scores[best]):.4f}, "
                    f"{human_bytes(self.size(best))}"
                )
                bar.update()
        best = evolution.fittest()[0]
        report = {
            self.held_out_name: self.value_of(evolution.scores[best]),
            "scored": len(evolution.scores),
            "rows_kept": {
                name: 1.0 if one.kept_V is None else float(one.kept_V.float().mean())
                for name, one in self.searched.items()
            },
        }
        return self.dense(self.keep_of(best), report)

    def value_of(self, fitness: float) -> float:
        """Return the metric of a fitness."""
        return self.monitor.fitness(fitness)

    def keep_of(self, widths: Widths) -> Keep:
        """Return the dimensions of widths: the first ones, as many as the width says."""
        return {
            name: [list(range(width))] for name, width in zip(self.searched, widths, strict=True)
        }

    def fitness(self, widths: Widths) -> float:
        """Return how good the held-out rows are at widths, with the weights of the supernet."""
        thresholds = thresholds_of(self.embeddings)
        for name, width in zip(self.searched, widths, strict=True):
            thresholds[name].width_F.fill_(width)
        return self.monitor.fitness(self.held_out(self.embeddings))

    @functools.cached_property
    def sizes(self) -> list[list[int]]:
        """The serving bytes of each table at each width, from 1."""
        return [
            [
                one.selected([list(range(width))]).serving_bytes(one.where, one.spaces)
                for width in range(1, one.config.dim + 1)
            ]
            for one in self.searched.values()
        ]

    def size(self, widths: Widths) -> int:
        """Return the serving bytes of all tables at widths."""
        own = [sizes[width - 1] for sizes, width in zip(self.sizes, widths, strict=True)]
        return sum(own) + self.others

    def widest(self, embeddings: Embeddings) -> dict[str, int]:
        """Return the largest width of each table; where there is a budget, of those it allows.

        A wider one would take the room of all others. So the supernet is trained at widths that can
        be had, and candidates are drawn from them.
        """
        plain = {name: cast(Full, self.given[name]) for name in self.names}
        budget = self.asked(embeddings)
        if budget is None:
            return {name: config.dim for name, config in plain.items()}
        sizes = [
            [
                replace(config, dim=dim).serving_bytes(f"table {name!r}", embeddings.spaces[name])
                for dim in range(1, config.dim + 1)
            ]
            for name, config in plain.items()
        ]
        room = budget - other_bytes(embeddings, self.names)
        return dict(zip(plain, affordable(sizes, room), strict=True))

    def fitting(self, widths: Widths, source: random.Random) -> Widths:
        """Return widths changed until they fill the budget and no more."""
        assert self.budget is not None
        least = self.size((1,) * len(widths))
        if least > self.budget:
            raise RecembError(
                f"search: a budget of {self.budget:,} bytes is too small for the rows that "
                f"optembed keeps, which take {least:,} with one dimension; raise it, or --alpha"
            )
        return filled(widths, self.sizes, self.budget - self.others, source)

"""Optimizers: of the rows of tables, beside that of all other parameters.

Rows have optimizers of their own, which change touched rows and no others: SGD, Adagrad, row-wise
Adagrad and Adam (:mod:`recemb.rows.optimizers`). :class:`RowsOptimizer` is the optimizer in torch's
terms that steps them, and with them the one of the dense parameters, so that a training loop, a
trainer, a scheduler and a scaler see one optimizer.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad, UpdateRule
from recemb.rows.parameter import RowsParameter

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "RowWiseAdagrad",
    "RowsOptimizer",
    "UpdateRule",
    "dense_parameters",
]

SHORT = {"learning_rate": "lr", "step_learning_rate": "step_lr"}
"""What settings are called in parameter groups, where torch has a name for them."""


def dense_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model but the rows of its tables: what torch's optimizers take."""
    return [one for one in model.parameters() if not isinstance(one, RowsParameter)]


class RowsOptimizer(torch.optim.Optimizer):
    """Steps the rows of a model's tables, and the optimizer of its dense parameters, if any.

    Each table has a parameter group with its ``table``, ``kind``, ``lr``, ``weight_decay`` and what
    else its kind of optimizer has; all but the kind may be changed between steps, as torch's
    schedulers do. Gradients of touched rows are the ``grad`` of the group's parameters, so clipping
    and ``torch.amp.GradScaler`` reach them: a step that a scaler leaves out leaves rows and their
    state as they are. A step takes the gradients of rows with it.

    Args:
        model: An :class:`~recemb.collection.EmbeddingCollection`, or a module that holds some.
        dense: Of the dense parameters (:func:`dense_parameters`); stepped first. Its groups come
            first among the groups of this optimizer.

    Raises:
        RecembError: If the model has no tables, or ``dense`` was given rows.

    Example:
        >>> from recemb import EmbeddingCollection, Feature, Full
        >>> items = EmbeddingCollection(
        ...     {"item": Full(dim=2)}, {"item": Feature(table="item", num_ids=3)}, SGD()
        ... )
        >>> optimizer = RowsOptimizer(items)
        >>> items({"item": torch.tensor([2, 2])})["item"].sum().backward()
        >>> optimizer.param_groups[0]["params"][0].grad
        tensor([[2., 2.]])
        >>> optimizer.step()
    """

    is_optimizer_of_rows = True

    def __init__(self, model: nn.Module, dense: torch.optim.Optimizer | None = None) -> None:
        self.collections = [one for one in model.modules() if isinstance(one, Embeddings)]
        self.dense = dense
        if not self.collections:
            raise RecembError(
                f"RowsOptimizer: {type(model).__name__} has no tables; give it an "
                "EmbeddingCollection, or a model that holds one"
            )
        if dense is not None:
            _check_dense(dense)
        for collection in self.collections:
            collection.rows.leave_reminding()
        groups = [group for collection in self.collections for group in _groups_of(collection)]
        super().__init__(groups or [{"params": []}], {})  # torch wants a group
        self._num_rows_groups = len(groups)
        self._join(self.param_groups[: len(groups)])

    def _join(self, groups: list[dict[str, Any]]) -> None:
        """Have the groups and the state of the dense optimizer before those of rows."""
        if self.dense is not None:
            self.param_groups = [*self.dense.param_groups, *groups]
            self.state = self.dense.state
        else:
            self.param_groups = groups

    @property
    def rows_groups(self) -> list[dict[str, Any]]:
        """The groups of tables, without those of the dense optimizer."""
        return self.param_groups[len(self.param_groups) - self._num_rows_groups :]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the dense optimizer, then all rows.

        Args:
            closure: Runs forward and backward and returns the loss, before the step. Where
                quantisation steps are learned it runs once more, after it.

        Raises:
            RecembError: If a row would become a number that is not finite, or one too large for
                its precision; no row has changed then.
        """
        rules_of_each = self._rules()  # refused before anything has changed
        loss = None
        if self.dense is not None:
            loss = self.dense.step(closure) if closure is not None else self.dense.step()
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        for collection, rules in zip(self.collections, rules_of_each, strict=True):
            collection.rows.set_rules(rules)
            # A closure leaves gradients in all collections, and one alone may be stepped by it.
            collection.step(closure if len(self.collections) == 1 else None)
        return loss

    def _rules(self) -> list[dict[str, UpdateRule]]:
        """Return for each collection how rows change by what groups say now, by physical table."""
        groups = iter(self.rows_groups)
        found = []
        for collection in self.collections:
            rules: dict[str, UpdateRule] = {}
            for table, before in collection.rules.items():
                rule = _rule(next(groups), before)
                rules.update(dict.fromkeys(collection.physical_of[table].values(), rule))
            found.append(rules)
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the dense optimizer another group.

        Raises:
            RecembError: If there is none, or the group has rows: their groups are the tables.
        """
        if "_num_rows_groups" not in self.__dict__:  # torch adds the first ones so
            super().add_param_group(param_group)
            return
        if self.dense is None:
            raise RecembError(
                "RowsOptimizer: it has no dense optimizer that a group could be added to; give it "
                "one, as in RowsOptimizer(model, dense=torch.optim.Adam(...))"
            )
        rows_groups = self.rows_groups
        self.dense.add_param_group(param_group)
        try:
            _check_dense(self.dense)
        except RecembError:
            self.dense.param_groups.pop()
            raise
        self._join(rows_groups)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both, as plain values and tensors.

        ``rows`` has the state of rows by table, where a rows store does not save it by itself.
        """
        dense = self.dense.state_dict() if self.dense is not None else {}
        own = [{**group, "params": []} for group in self.rows_groups]
        state = {
            "state": dense.get("state", {}),
            "param_groups": [*dense.get("param_groups", []), *own],
        }
        if all(collection.rows.has_buffers for collection in self.collections):
            state["rows"] = {
                f"{number}:{name}" if number else name: tensor
                for number, collection in enumerate(self.collections)
                for name, tensor in collection.rows.optimizer_state().items()
            }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            RecembError: If it has no state of rows, or that of other tables.
        """
        own = self.rows_groups
        num_dense = len(self.param_groups) - len(own)
        groups = list(state_dict.get("param_groups", []))
        dense = [group for group in groups if "table" not in group]
        saved = [group for group in groups if "table" in group]
        # None of rows where it was saved by a dense optimizer alone.
        if len(dense) != num_dense or len(saved) not in (0, len(own)):
            raise RecembError(
                f"RowsOptimizer: the state has {len(dense)} groups of dense parameters and "
                f"{len(saved)} of tables, got {num_dense} and {len(own)}; load it into one "
                "that is built as the one that was saved"
            )
        for group, before in zip(own, saved, strict=False):
            if group["table"] != before["table"] or group["kind"] != before["kind"]:
                raise RecembError(
                    f"RowsOptimizer: the state is of table {before['table']!r} under "
                    f"{before['kind']}, got table {group['table']!r} under {group['kind']}; load "
                    "it where tables and optimizers are those that it was saved with"
                )
        if self.dense is not None:
            self.dense.load_state_dict({"state": state_dict["state"], "param_groups": dense})
        for group, before in zip(own, saved, strict=False):
            group.update({**before, "params": group["params"]})
        self._join(own)
        self._load_rows(state_dict.get("rows"))

    def _load_rows(self, saved: dict[str, Tensor] | None) -> None:
        for number, collection in enumerate(self.collections):
            if saved is None and not collection.rows.has_buffers:
                continue  # it is in files of its own
            if saved is None:
                raise RecembError(
                    "RowsOptimizer: the state has none of rows, so that training cannot go on from "
                    "it; load the weights alone"
                )
            start = f"{number}:" if number else ""
            of_others = tuple(f"{one}:" for one in range(1, len(self.collections)) if one != number)
            collection.rows.load_optimizer_state(
                {
                    name.removeprefix(start): tensor
                    for name, tensor in saved.items()
                    if name.startswith(start) and not name.startswith(of_others)
                }
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return everything: torch's own forgets what a subclass adds."""
        own = ("collections", "dense", "_num_rows_groups")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}


def _check_dense(dense: torch.optim.Optimizer) -> None:
    for group in dense.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, RowsParameter):
                raise RecembError(
                    f"RowsOptimizer: dense was given the rows of table {parameter.table!r}; give "
                    f"{type(dense).__name__} recemb.optim.dense_parameters(model)"
                )


def _groups_of(collection: Embeddings) -> list[dict[str, Any]]:
    """Return a parameter group for each table that has rows."""
    parameters = collection.rows.rows_parameters()
    groups = []
    for table, rule in collection.rules.items():
        settings = {SHORT.get(one.name, one.name): getattr(rule, one.name) for one in fields(rule)}
        parts = collection.physical_of[table].values()
        own = [one for part in parts for one in parameters[part]]
        groups.append({"params": own, "table": table, **settings})
    return groups


def _rule(group: dict[str, Any], rule: UpdateRule) -> UpdateRule:
    """Return a rule with the settings of a parameter group.

    Raises:
        RecembError: If one of them is out of range, or the kind was changed.
    """
    settings = {one.name: group[SHORT.get(one.name, one.name)] for one in fields(rule)}
    if all(getattr(rule, name) == value for name, value in settings.items()):
        return rule
    where = f"RowsOptimizer: group of table {group['table']!r}"
    if settings["kind"] != rule.kind:
        raise RecembError(
            f"{where}: its kind is {rule.kind}, got {settings['kind']!r}; build the collection "
            "with another optimizer"
        )
    # A schedule may end at a rate of 0, which a configuration may not begin with.
    rates: dict[str, Any] = {name: float(settings.pop(name)) for name in SHORT}
    new = replace(rule, **settings)
    new.check(where)
    for name, rate in rates.items():
        if not rate >= 0:
            raise RecembError(f"{where}: {SHORT[name]} must be at least 0, got {rate}")
    return replace(new, **rates)

"""Space files: what is drawn, under which names, and what is refused."""

from pathlib import Path

import pytest
import yaml

from recemb.errors import RecembError
from recemb.sweep.paths import leaves, simplified
from recemb.sweep.space import applied, read_space

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model": {
        "class_path": "recemb.models.dcn.DCN",
        "init_args": {
            "tables": {"user": {"kind": "full", "dim": 8, "precision": "fp32"}},
            "network": {"hidden": [64, 32]},
        },
    },
    "trainer": {
        "max_epochs": 3,
        "callbacks": [{"class_path": "a.B", "init_args": {"patience": 1}}],
    },
}
USER = "model.init_args.tables.user"


class Given:
    """Draws what it is given, and records what it was asked for."""

    def __init__(self, **values) -> None:
        self.values = {name.replace("__", "."): value for name, value in values.items()}
        self.asked: dict[str, tuple] = {}

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked[name] = ("int", low, high, step, log)
        return self.values.get(name, low)

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked[name] = ("float", low, high, step, log)
        return self.values.get(name, low)

    def suggest_categorical(self, name, choices):
        self.asked[name] = tuple(choices)
        return self.values.get(name, choices[0])


def space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path)


def test_every_distribution_is_asked_for_under_its_path(tmp_path):
    found = space(
        tmp_path,
        f"""
        {USER}.dim: {{int: [2, 64], log: true}}
        trainer.max_epochs: {{int: [2, 10], step: 4}}
        model.init_args.network.hidden: {{choice: [[64, 32], [16]]}}
        trainer.callbacks.0.init_args.patience: {{float: [1e-4, 1]}}
        """,
    )
    given = Given(**{"model.init_args.network.hidden": "[16]"})
    drawn = found.draw(given)
    assert given.asked == {
        f"{USER}.dim": ("int", 2, 64, 1, True),
        "trainer.max_epochs": ("int", 2, 10, 4, False),
        "model.init_args.network.hidden": ("[64, 32]", "[16]"),
        "trainer.callbacks.0.init_args.patience": ("float", 0.0001, 1.0, None, False),
    }
    new = applied(CONFIG, drawn)
    assert new["model"]["init_args"]["tables"]["user"]["dim"] == 2
    assert new["model"]["init_args"]["network"]["hidden"] == [16]
    assert new["trainer"]["callbacks"][0]["init_args"]["patience"] == 0.0001
    assert CONFIG["model"]["init_args"]["network"]["hidden"] == [64, 32]


def test_a_choice_of_sections_draws_the_settings_of_the_one_that_it_takes(tmp_path):
    text = f"""
    {USER}:
      choice:
        plain: {{kind: full, dim: {{int: [2, 30]}}}}
        codes: {{kind: dpq, dim: {{int: [4, 30]}}, num_parts: {{same: dim}}, num_keys: 16}}
    """
    given = Given(**{USER: "codes", f"{USER}.codes.dim": 12})
    drawn = space(tmp_path, text).draw(given)
    assert drawn == {USER: {"kind": "dpq", "dim": 12, "num_parts": 12, "num_keys": 16}}
    assert given.asked == {
        USER: ("plain", "codes"),
        f"{USER}.codes.dim": ("int", 4, 30, 1, False),
    }


def test_alternatives_without_a_label_are_called_by_their_kind(tmp_path):
    text = f"{USER}: {{choice: [{{kind: full, dim: 4}}, {{kind: hashed, dim: 4, num_rows: 9}}]}}"
    assert list(space(tmp_path, text).names()[USER].options) == ["full", "hashed"]
    text = f"{USER}: {{choice: [{{kind: full, dim: 4}}, {{kind: full, dim: 8}}]}}"
    assert list(space(tmp_path, text).names()[USER].options) == ["full-1", "full-2"]


def test_one_path_can_take_the_value_of_another(tmp_path):
    found = space(tmp_path, "a.b: {same: a.c}\na.c: {int: [3, 9]}")
    assert found.draw(Given(**{"a.c": 7})) == {"a.c": 7, "a.b": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{USER}.dmi: {{int: [2, 8]}}", rf"no setting '{USER}.dmi'; the nearest is '{USER}.dim'"),
        ("trainer.max_epoch: {int: [2, 8]}", "the nearest is 'trainer.max_epochs'"),
        (
            f"{USER}: {{choice: [{{kind: full, dmi: 4}}, {{kind: full, dim: 4}}]}}",
            r"table 'user': kind full has no setting 'dmi'",
        ),
        (
            f"{USER}: {{choice: {{a: {{kind: full, dim: 4}}, b: {{kind: ful, dim: 4}}}}}}",
            r"table 'user': kind must be one of .* got 'ful'",
        ),
    ],
)
def test_what_the_configuration_does_not_have_is_refused(tmp_path, text, message):
    with pytest.raises(RecembError, match=message):
        space(tmp_path, text).check(CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {int: [2]}", r"a: must be such as \{int: "),
        ("a: {int: [2, 8.5]}", r"a: must be such as \{int: "),
        ("a: {int: [2, 8], stpe: 2}", r"a: must be such as \{int: "),
        ("a: {float: [x, 8]}", r"a: must be such as \{float: "),
        ("a: {float: [9, 8]}", "the low end must be at most the high one"),
        ("a: {float: [0, 8], log: true}", "above 0 for log"),
        ("a: {choice: []}", "a choice is a list of different values"),
        ("a: {choice: [1, 1]}", "a choice is a list of different values"),
        ("a: {choice: [1], step: 2}", "a choice has nothing beside it"),
        ("a: {same: b}", "'same' must name a path that is drawn here"),
        (
            "a: {choice: [{kind: dpq, num_parts: {same: dim}}]}",
            r"'same' must name a setting beside",
        ),
        ("a: {int: [2, 8]}\nfirst: [{b: 3}]", "first: .* no setting 'b'; the nearest is 'a'"),
        ("a: {int: [2, 8]}\nfirst: {a: 3}", "first: must be a list of points"),
        (
            "a: {int: [2, 8]}\nfirst: [{a: 9}]",
            "first: a: must be a whole number from 2 to 8, got 9",
        ),
        ("a: {int: [2, 8]}\nfirst: [{a: 2.5}]", "first: a: must be a whole number .* got 2.5"),
        ("a: {int: [2, 8], step: 2}\nfirst: [{a: 3}]", "from 2 to 8 in steps of 2, got 3"),
        ("a: {float: [0.1, 1]}\nfirst: [{a: much}]", "a number from 0.1 to 1, got much"),
        ("a: {float: [0.1, 1]}\nfirst: [{a: .nan}]", "a number from 0.1 to 1, got nan"),
        ("a: {choice: [4, 8]}\nfirst: [{a: 16}]", "first: a: must be one of 4, 8; got 16"),
        ("- a", "a space maps paths"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path, text, message):
    with pytest.raises(RecembError, match=message):
        space(tmp_path, text)


def test_a_configuration_in_the_form_of_the_parser_is_simplified():
    found = simplified(
        {
            "tables": {"user": {"class_path": "recemb.Full", "init_args": {"kind": "full"}}},
            "model": {"class_path": "recemb.models.dcn.DCN", "init_args": {"hidden": [3]}},
        }
    )
    assert found == {
        "tables": {"user": {"kind": "full"}},
        "model": {"class_path": "recemb.models.dcn.DCN", "init_args": {"hidden": [3]}},
    }
    assert leaves(found) == {
        "tables.user.kind": "full",
        "model.class_path": "recemb.models.dcn.DCN",
        "model.init_args.hidden": [3],
    }


def test_points_to_begin_with_are_values_or_labels(tmp_path):
    text = """
a: {choice: [4, 8, true, fp32, [1, 2]]}
b: {choice: {one: {c: {choice: [2, 3]}, d: {float: [1.0e-5, 1]}}}}
first:
  - {a: 8, b: one, b.one.c: 3, b.one.d: 1e-4}
  - {a: true}
  - {a: [1, 2]}
  - {a: fp32}
"""
    found = space(tmp_path, text)
    drawn = [found.draw(Given(**point)) for point in found.first]
    assert drawn[0] == {"a": 8, "b": {"c": 3, "d": 1e-4}}
    assert [one["a"] for one in drawn[1:]] == [True, [1, 2], "fp32"]


@pytest.mark.parametrize("name", ["kinds", "dims"])
def test_the_spaces_of_the_project_fit_the_benchmark(name):
    config = yaml.safe_load((ROOT / "configs/dcn/movielens1m.yaml").read_text())
    found = read_space(ROOT / f"configs/sweep/{name}.yaml")
    found.check(config)
    for point in found.first:
        found.draw(Given(**point))
    first = found.first[0] if found.first else {}
    new = applied(config, found.draw(Given(**first)))
    user = new["model"]["init_args"]["tables"]["user"]
    assert user == (
        {"kind": "full", "dim": 8, "precision": "fp32"} if first else {"kind": "full", "dim": 1}
    )

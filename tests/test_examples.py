"""Examples: every notebook runs from its first cell to its last, and comes to what it says."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
CHECKS = {
    # Knowing the kinds has the entropies of 0.9 and 0.2, half each: 0.413; their mean's is 0.688.
    "compress_a_module": """
assert 0.40 < before < 0.46
assert abs(after - before) < 0.02
assert costs.bytes_before == (2000 + 500) * 32 * 4
assert costs.bytes_after <= costs.bytes_before / 10
""",
    # Alike and not alike are told apart by clicks of 0.85 and 0.15: an AUC of 0.85 at best.
    "rank_clicks": """
assert 0.75 < trained.metrics["test/auc"] < 0.9
assert len(vectors) == 100
assert again.predict(asked).equals(trained.predict(asked))
""",
    # Of a viewer's own taste are all films with the parity of the viewer's number.
    "recommend": """
own = pl.col("viewer").str.extract(r"(\\d+)").cast(pl.Int64) % 2 == pl.col("item") % 2
assert everyone.select(own.mean()).item() > 0.9
assert alike.head(20).select((pl.col("id") % 2 == 0).mean()).item() > 0.9
assert not found.filter(pl.col("viewer") == "a stranger")["known"].any()
""",
}


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_a_notebook_runs_and_comes_to_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    # In this process, which has imported what takes longer than the notebook.
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{name}, code cell {number}", "exec"), names)
    exec(compile(CHECKS[name], f"what {name} comes to", "exec"), names)

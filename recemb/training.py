"""Fit from Python: the verb ``fit``, with frames in the place of files."""

import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from recemb.class_paths import class_packages
from recemb.command_line.mistakes import mistake_in
from recemb.command_line.notices import silence
from recemb.command_line.train import results_of
from recemb.errors import RecembError
from recemb.files import read_yaml
from recemb.frames import Source, is_frame, path_of
from recemb.renamed import current_path
from recemb.trained import Trained


def fit(
    config: str | Path | Mapping[str, Any],
    *,
    train: Source | None = None,
    validation: Source | None = None,
    test: Source | None = None,
    run: str | Path | None = None,
) -> Trained:
    """Train; restore the best checkpoint by validation; test it once.

    Args:
        config: The path of a configuration, or its sections as a mapping (``model``, ``data``,
            ``trainer``, ``seed_everything``, ...). Frames may stand in it wherever paths of data
            do.
        train: What is trained on: a frame (:mod:`recemb.frames`) or a file. It takes the place of
            ``train`` of the section ``data``, or of ``source`` where the data module cuts its
            stages itself; validation and test are then what is given here or named there, or
            there is none.
        validation: Likewise, for a data module that takes it.
        test: Likewise.
        run: The run folder, new or empty; None: ``runs/<config>/<time>-fit``.

    Returns:
        The best checkpoint, loaded, with what was measured as ``metrics``.

    Raises:
        RecembError: If the configuration or the data is wrong.
    """
    stages = {"train": train, "validation": validation, "test": test}
    given = {stage: one for stage, one in stages.items() if one is not None}
    file = Path(config).expanduser() if isinstance(config, str | Path) else None
    settings = with_sources(_settings(config), given)
    with tempfile.TemporaryDirectory(prefix="recemb-") as folder:
        path = file
        if path is None or given:
            # The run folder is called after it.
            path = Path(folder) / (file.name if file else "fit.yaml")
            path.write_text(_written(settings), encoding="utf-8")
        arguments = ["--config", str(path), *(["--run", str(run)] if run is not None else [])]
        with _mistakes_as_errors(arguments), silence():
            results = results_of("fit", arguments)
    return Trained(results["checkpoint"], _packages(settings))


def with_sources(settings: Mapping[str, Any], given: Mapping[str, Source]) -> dict[str, Any]:
    """Return a configuration with the paths of files in the place of frames.

    Args:
        settings: Its sections.
        given: What takes the place of files, by stage.

    Raises:
        RecembError: If the data module takes no such frame.
    """
    found: dict[str, Any] = _with_paths(settings, "config")
    if not given:
        return found
    section = found.get("data")
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise RecembError(
            "config: data must be a section with a class_path, such as "
            f"recemb.data.tabular.Tabular, got {section!r}"
        )
    takes = _parameters(section["class_path"])
    init_args = dict(section.get("init_args") or {})
    for stage, source in given.items():
        name = "source" if stage == "train" and stage not in takes else stage
        if name not in takes:
            what = section["class_path"].rpartition(".")[2]
            advice = "leave it out: it is cut off train" if stage != "train" else "leave it out"
            raise RecembError(f"{stage}: {what} takes no such frame; {advice}")
        init_args[name] = path_of(source, stage)
    if "train" in given and "train" in takes:
        # The usual names of files are of no frame.
        init_args = {n: None for n in ("validation", "test") if n in takes} | init_args
    return {**found, "data": {**section, "init_args": init_args}}


def _settings(config: Any) -> dict[str, Any]:
    """Return the sections of a configuration."""
    settings = read_yaml(Path(config).expanduser()) if isinstance(config, str | Path) else config
    if not isinstance(settings, Mapping):
        raise RecembError(
            "config: must be the path of a configuration or a mapping of its sections, got "
            f"{type(settings).__name__}"
        )
    return dict(settings)


def _with_paths(value: Any, name: str) -> Any:
    """Return nested settings in which frames and paths are the texts of paths."""
    if isinstance(value, Mapping):
        return {key: _with_paths(one, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_paths(one, name) for one in value]
    return path_of(value, name) if is_frame(value) or isinstance(value, Path) else value


def _written(settings: Mapping[str, Any]) -> str:
    try:
        text: str = yaml.safe_dump(dict(settings), sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise RecembError(
            f"config: must hold plain values and frames, got {str(error.args[-1])[:80]!r}; write "
            "it as a configuration file would have it"
        ) from error
    return text


def _parameters(class_path: str) -> Sequence[str]:
    """Return what the constructor of a data module takes."""
    module, _, name = current_path(class_path).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise RecembError(
            f"config: data.class_path {class_path!r} cannot be imported ({error}); check the name"
        ) from error
    return list(inspect.signature(found).parameters)


def _packages(settings: Mapping[str, Any]) -> list[str]:
    """Return the packages of the classes of a user's own configuration, which is trusted."""
    return class_packages({name: settings.get(name) for name in ("model", "data")})


@contextmanager
def _mistakes_as_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Raise a user's mistakes as the one line that the command says; faults as they are."""
    try:
        yield
    except RecembError:
        raise
    except (Exception, jsonargparse.ArgumentError) as error:
        line = mistake_in(error, arguments)
        if line is None:
            raise
        raise RecembError(line) from error

"""The file of a program: what is not in it, and damage to it."""

import json
import random
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import xxhash

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.serving.archive import load_program, read_description, write_checksum
from recemb.serving.checks import checked_trace
from recemb.serving.export import export
from recemb.serving.program import ServedProgram
from tests.serving.asked import MODELS, REQUESTS


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "model.pt"
    model = MODELS["dlrm"]().eval()
    export(model, model.schema, path)
    return path


@pytest.fixture
def program(written, tmp_path) -> Path:
    for end in ("", ".checksum"):
        name = f"{written.name}{end}"
        (tmp_path / name).write_bytes(written.with_name(name).read_bytes())
    return tmp_path / written.name


def places_in(path: Path) -> set[str]:
    """Return which folders of this machine a file names, packed or not."""
    with zipfile.ZipFile(path) as archive:
        content = [path.read_bytes(), *(archive.read(name) for name in archive.namelist())]
    folders = (Path(__file__).parents[2], Path(torch.__file__).parent, sys.prefix, Path.home())
    return {str(one) for one in folders if any(str(one).encode() in part for part in content)}


def test_no_place_of_this_machine_is_in_the_file(written, tmp_path):
    assert places_in(written) == set()
    # As torch writes it, it tells where the project and torch lie.
    model = MODELS["dlrm"]().eval()
    traced = checked_trace(ServedProgram(model), REQUESTS["dlrm"])
    torch.jit.save(traced, tmp_path / "plain.pt")
    assert len(places_in(tmp_path / "plain.pt")) >= 2


def test_an_export_and_its_loading_say_nothing_of_torchscript(tmp_path):
    model = MODELS["dlrm"]().eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        export(model, model.schema, tmp_path / "model.pt")
        load_program(tmp_path / "model.pt")
    assert [str(one.message) for one in said] == []


def test_the_archive_is_as_torch_lays_it_out(written):
    content = written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            start = entry.header_offset
            ends = (content[start + 26 : start + 28], content[start + 28 : start + 30])
            place = start + 30 + sum(int.from_bytes(one, "little") for one in ends)
            assert place % 64 == 0
            assert entry.compress_type == zipfile.ZIP_STORED


def test_the_checksum_beside_a_program_is_a_line_of_xxh128sum(written):
    digest = xxhash.xxh3_128_hexdigest(written.read_bytes())
    assert written.with_name("model.pt.checksum").read_text() == f"{digest}  model.pt\n"


def test_what_is_loaded_is_what_was_written(program):
    request = REQUESTS["dlrm"]
    assert torch.equal(load_program(program)(request), torch.jit.load(program)(request))
    description = read_description(program)
    assert description["tags"]["type"] == "list of int64"
    assert description["price"] == {"type": "float32"}


def test_no_flipped_bit_is_loaded(program):
    draw = random.Random(0)
    content = program.read_bytes()
    # Anywhere, and at the end, where the table of contents is.
    places = [draw.randrange(len(content)) for _ in range(150)]
    places += [len(content) - 1 - draw.randrange(200) for _ in range(50)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        program.write_bytes(damaged)
        with pytest.raises(RecembError, match=r"model.pt: damaged, its content is not what was wr"):
            load_program(program)
    program.write_bytes(content)
    beside = program.with_name("model.pt.checksum")
    line = beside.read_bytes()
    for place in range(32):
        for bit in range(8):
            damaged = bytearray(line)
            damaged[place] ^= 1 << bit
            beside.write_bytes(damaged)
            with pytest.raises(RecembError, match=r"damaged|not a readable checksum"):
                load_program(program)


def test_what_is_missing_or_no_program_is_refused(program):
    program.write_bytes(program.read_bytes()[:-1])
    with pytest.raises(RecembError, match=r"model.pt: damaged"):
        load_program(program)
    program.write_text("no program")
    write_checksum(program)
    for read in (load_program, read_description):
        with pytest.raises(RecembError, match=r"model.pt: not a readable program"):
            read(program)
    beside = program.with_name("model.pt.checksum")
    beside.write_text("\n")
    with pytest.raises(RecembError, match=r"model.pt.checksum: not a readable checksum"):
        load_program(program)
    beside.unlink()
    with pytest.raises(RecembError, match=r"model.pt.checksum: the file is missing; export"):
        load_program(program)
    program.unlink()
    with pytest.raises(RecembError, match=r"model.pt: the file is missing; export"):
        load_program(program)


def test_show_says_whether_a_program_is_whole_and_what_it_reads(program, capsys):
    assert main(["show", str(program)]) == 0
    shown = capsys.readouterr().out
    assert f"{program}: its content is what was written" in shown
    assert json.dumps(shown).count("int64") == 3
    content = bytearray(program.read_bytes())
    content[1000] ^= 1
    program.write_bytes(content)
    assert main(["show", str(program)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged, its content is not what was written; export the program again" in line

"""Checksums: what was written is told from anything else, whichever byte changed."""

import pytest

from recemb.checksums import MANIFEST, check_manifest, checksum, write_manifest
from recemb.errors import RecembError


def test_the_checksum_is_the_published_one(tmp_path):
    # XXH3_128bits of nothing, with seed 0, as in the specification's own test vectors.
    (tmp_path / "empty").write_bytes(b"")
    assert checksum(tmp_path / "empty") == "99aa06d3014798d86001c324468d497f"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    (tmp_path / "inner/two  words").write_bytes(b"x" * 10)
    write_manifest(tmp_path)
    return tmp_path


def test_an_untouched_folder_passes(folder):
    check_manifest(folder, remedy="write it again")
    check_manifest(folder, ["inner/two  words"], remedy="write it again")


def test_any_flipped_bit_is_found(folder):
    for path in ("a.bin", "inner/two  words", MANIFEST):
        whole = (folder / path).read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            (folder / path).write_bytes(damaged)
            with pytest.raises(RecembError, match="write it again"):
                check_manifest(folder, remedy="write it again")
        (folder / path).write_bytes(whole)
    check_manifest(folder, remedy="write it again")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "a.bin: the file is missing"),
        (lambda folder: (folder / "a.bin").write_bytes(b"short"), "must have 100 bytes, got 5"),
        (lambda folder: (folder / MANIFEST).write_bytes(b""), "damaged"),
        (lambda folder: (folder / MANIFEST).unlink(), f"{MANIFEST}: the file is missing"),
    ],
)
def test_what_is_wrong_is_named(folder, change, words):
    change(folder)
    with pytest.raises(RecembError, match=words):
        check_manifest(folder, remedy="write it again")


def test_a_file_that_was_not_there_is_refused(folder):
    (folder / "new").write_bytes(b"")
    with pytest.raises(RecembError, match="does not name it"):
        check_manifest(folder, ["new"], remedy="write it again")

"""Writes `tests/parity/data` from a directory with all the official numbers.

    python -m tests.parity.subset ../shared/fixtures

The subset has the layout of the whole, so every test reads either. What makes it small: cases of
high resolution, most gradients, all training steps and some rows stay behind, logits keep every
fifth column, intermediate numbers are rounded to multiples of 2**-20 (a tenth of the tightest
tolerance), and each array is packed by the best of three methods that any zip reader knows.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import pathlib
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np

DATA = pathlib.Path(__file__).parent / "data"
LEFT_OUT = ("hires", "hires_interp")
# Cases with statistics of all gradients.
GRADIENTS = ("image_text", "codes_mixed")
# Rows that are kept of cases whose rows do not depend on each other and whose gradients are left.
ROWS = {"bins": 1, "nonsquare": 1, "patch_masks": 2, "sample_patches": 1}
IMAGES = ("image", "gray", "caption_224", "caption_256_gray")
PLAIN = ("loss_cases.json", "cider_cases.json", "bpe_cases.json", "box_cases.json")
PLAIN += ("dataset_items.json",)
COLUMNS = 5
_LARGEST_GRADIENT = 300
_METHODS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file whose members are each packed by the method that makes them smallest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with (
        mock.patch.object(zipfile, "LZMACompressor", _Lzma),
        zipfile.ZipFile(path, "w") as archive,
    ):
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array, order="C"))
            sizes = {method: _packed_size(content.getvalue(), method) for method in _METHODS}
            method = min(sizes, key=sizes.__getitem__)
            # A fixed date: the same numbers are the same file.
            entry = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(entry, content.getvalue(), method, compresslevel=9)


class _Lzma(zipfile.LZMACompressor):
    """zipfile's own, set for numbers of two bytes; readers find the setting in the file."""

    def _init(self) -> bytes:
        numbers = {"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 1, "pb": 1, "dict_size": 1 << 23}
        self._comp = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[numbers])
        # The version of LZMA, then five bytes of properties: (pb * 5 + lp) * 9 + lc, the window.
        return struct.pack("<BBHBI", 9, 4, 5, (1 * 5 + 1) * 9 + 0, 1 << 23)


def _packed_size(content: bytes, method: int) -> int:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method, compresslevel=9) as archive:
        archive.writestr("member", content)
    return len(packed.getvalue())


def _rounded(array: np.ndarray) -> np.ndarray:
    """Float32 numbers as multiples of 2**-20; others as they are."""
    if array.dtype != np.float32:
        return array
    return (np.round(array.astype(np.float64) * 2**20) / 2**20).astype(array.dtype)


def _case(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays, case = {}, path.stem.removeprefix("case_")
    for name, array in np.load(path).items():
        if name == "out.logits":
            array = array[..., ::COLUMNS]
        if re.fullmatch(r"mid\..*_state_0", name):
            continue  # The input of the first layer, which no test reads.
        rows = 1 if name.startswith("mid.encoder_state") else ROWS.get(case)
        if not name.startswith("w."):
            array = array[:rows]
        arrays[name] = array if name.startswith("w.") else _rounded(array)
    return arrays


def _json(source: pathlib.Path, target: pathlib.Path, keep: tuple[str, ...] | None = None) -> None:
    content = json.loads(source.read_text(encoding="utf-8"))
    _dump({name: content[name] for name in keep or content}, target)


def _dump(content: Mapping[str, Any], target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def _generation(path: pathlib.Path) -> dict[str, Any]:
    cases = json.loads(path.read_text(encoding="utf-8"))
    for case, settings in cases.items():
        for entry in settings.values():
            hypotheses = entry["hyps"] if isinstance(entry, dict) else entry
            del hypotheses[ROWS.get(case, len(hypotheses)) :]
    return {case: settings for case, settings in cases.items() if case not in LEFT_OUT}


def write(source: pathlib.Path, target: pathlib.Path = DATA) -> None:
    """Writes the subset of the fixtures in `source` to `target`."""
    for name in PLAIN:
        _json(source / name, target / name)
    images = np.load(source / "image_cases.npz")
    save_arrays(target / "image_cases.npz", {name: images[name] for name in IMAGES})
    for name in ("loss_cases.npz", "rp_buckets.npz"):
        save_arrays(target / name, dict(np.load(source / name)))

    mini, ours = source / "mini", target / "mini"
    for name in ("config.json", "state_dict.json"):
        _json(mini / name, ours / name)
    _json(mini / "grad_stats.json", ours / "grad_stats.json", GRADIENTS)
    _dump(_generation(mini / "generation.json"), ours / "generation.json")
    save_arrays(ours / "weights.npz", dict(np.load(mini / "weights.npz")))
    np.save(ours / "vocab_subset.npy", np.load(mini / "vocab_subset.npy")[::COLUMNS])
    for path in sorted(mini.glob("case_*.npz")):
        if path.stem.removeprefix("case_") not in LEFT_OUT:
            save_arrays(ours / path.name, _case(path))
    complete = np.load(mini / "grads_image_text.npz")
    small = {name: array for name, array in complete.items() if array.size <= _LARGEST_GRADIENT}
    save_arrays(ours / "grads_image_text.npz", small)

    vqgan, ours = source / "vqgan", target / "vqgan"
    _json(vqgan / "state_dict.json", ours / "state_dict.json")
    facts = json.loads((vqgan / "config.json").read_text(encoding="utf-8"))
    _dump({k: v for k, v in facts.items() if k not in ("grads", "mid")}, ours / "config.json")
    unread = r"small32\.|rect96x64\.|train\.|grad\."
    for name in ("weights.npz", "cases.npz"):
        arrays = {
            key: _rounded(array[:1] if re.search(r"sq64.*\.rec", key) else array)
            for key, array in np.load(vqgan / name).items()
            if not re.match(unread, key)
        }
        save_arrays(ours / name, arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=pathlib.Path)
    write(parser.parse_args().source)

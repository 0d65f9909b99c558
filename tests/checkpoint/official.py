"""Small official state dicts for the tests of this directory."""

import json
import pathlib
import pickle
import pickletools
import zipfile

import numpy as np

from ofa_jax.checkpoint.layout import SHARED_EMBEDDING, expected_shapes
from ofa_jax.model.config import OFAConfig, ResNetConfig
from tests.shared import fixtures_dir

SMALL = OFAConfig(
    vocab_size=300,
    num_codes=0,
    width=16,
    ffn_dim=24,
    num_heads=2,
    encoder_layers=2,
    decoder_layers=1,
    resnet=ResNetConfig(stage_blocks=(1, 1, 1), stage_widths=(4, 4, 8), stem_width=4),
    token_bucket_size=8,
    token_bucket_range=32,
    max_positions=32,
    image_bucket_size=6,
    code_image_size=32,
    orig_patch_image_size=64,
)


def random_state_dict(config: OFAConfig = SMALL, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random weights under official names, the shared embedding as one object."""
    rng = np.random.default_rng(0)
    state_dict = {
        name: (rng.standard_normal(shape) * 0.1).astype(dtype)
        for name, shape in expected_shapes(config).items()
    }
    for name in state_dict:
        if name.endswith("running_var"):
            state_dict[name] = np.abs(state_dict[name]) + np.array(0.5, dtype)
    table = state_dict[SHARED_EMBEDDING[0]]
    return {**state_dict, **dict.fromkeys(SHARED_EMBEDDING, table)}


def replace_none(path: pathlib.Path, **values) -> None:
    """Puts objects of any class where a zip file of `write_torch_file` has None."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    for key, value in values.items():
        # Without the protocol in front and the stop behind.
        body = pickletools.optimize(pickle.dumps(value, protocol=2))[2:-1]
        before = b"X" + len(key).to_bytes(4, "little") + key.encode()
        assert members[name].count(before + b"N") == 1
        members[name] = members[name].replace(before + b"N", before + body)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def fixture_state_dict() -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The complete official state dict of the fixture `mini`, in float16, and its hints."""
    directory = fixtures_dir() / "mini"
    listing = json.loads((directory / "state_dict.json").read_text())
    args = json.loads((directory / "config.json").read_text())["args"]
    with np.load(directory / "weights.npz") as stored:
        weights = {name: stored[name] for name in stored}
    with np.load(directory.parent / "rp_buckets.npz") as stored:
        buckets = {name: stored[name].astype(np.int64) for name in stored}
    state_dict = {}
    for name, entry in listing.items():
        if "same_as" in entry:
            state_dict[name] = weights[entry["same_as"]]
        elif name in weights:
            state_dict[name] = weights[name]
        else:
            state_dict[name] = buckets[name.rpartition(".")[2]]
        assert list(state_dict[name].shape) == entry["shape"], name
    return state_dict, {"code_dict_size": args["code_dict_size"], "num_bins": args["num_bins"]}

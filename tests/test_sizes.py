"""The printed table of sizes; the counts themselves are in tests/model/test_flops.py."""

from ofa_jax import sizes


def test_the_table_has_the_official_and_the_chinese_sizes():
    table = sizes.parameter_table([name for name in sizes.LISTED if name != "nano"])
    rows = {line.split()[0]: line.split()[1] for line in table.splitlines()[1:]}
    # SPEC 1.1.
    assert rows == {
        "tiny": "33,488,336",
        "medium": "92,892,000",
        "base": "182,238,536",
        "large": "472,977,152",
        "huge": "929,486,848",
        "base_chinese": "159,865,160",
        "large_chinese": "443,145,984",
    }

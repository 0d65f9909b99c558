"""Experiments on the mixture: the same run with other rates, over several seeds, in one table.

settings (what to run) -> runs (commands and directories) -> scores -> comparison -> table and
chart.
"""

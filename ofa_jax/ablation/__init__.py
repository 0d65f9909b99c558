"""Experiments on the mixture: the same run with other rates, over several seeds, in one table.

settings (what to run) -> runs (commands and folders) -> scores -> comparison -> table and chart.
"""

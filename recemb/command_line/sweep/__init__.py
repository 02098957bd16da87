"""The verb ``sweep``: draw configurations, train them, and say which are best.

options   what the command is told
trial     one trial, in a worker, or in those of all processes of a sharded training
run       the trials of this command, until the study has as many as were asked for
choice    what is chosen in the end, and tested
verb      all of it, and the report
"""
